// The reader's light or dark setting, and who has to repaint when it changes. (What CSS colours follows by itself.)

import { divergingRamp, sequentialRamp } from "./ramps.js";

const query = matchMedia("(prefers-color-scheme: dark)");
const painters = new Set();

query.addEventListener("change", () => painters.forEach((paint) => paint()));

/** Runs `paint` now and after every change of the setting. */
export function painted(paint) {
  painters.add(paint);
  paint();
}

export const diverging = (t) => divergingRamp(query.matches)(t);
export const sequential = (t) => sequentialRamp(query.matches)(t);

/** The value of a colour or font variable of the style sheet. */
export const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
