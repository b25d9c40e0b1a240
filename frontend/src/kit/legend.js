// The key of a colour scale: a strip of it with its ends named.

import { h } from "./dom.js";
import { diverging, painted, sequential } from "./theme.js";

const STOPS = 24;

function legend(ramp, from) {
  const strip = h("span", { class: "legend-strip" });
  const ends = [h("span", {}), h("span", {})];
  let low = from;
  const paint = () => {
    const stops = Array.from({ length: STOPS + 1 }, (_, i) => ramp(low + ((1 - low) * i) / STOPS).fill);
    strip.style.setProperty("background", `linear-gradient(to right, ${stops.join(", ")})`);
  };
  painted(paint);
  return {
    element: h("div", { class: "legend" }, ends[0], strip, ends[1]),
    /** The texts of both ends, and the value at the first: a scale without negatives begins at 0. */
    name(first, last, start = from) {
      ends[0].replaceChildren(first);
      ends[1].replaceChildren(last);
      low = start;
      paint();
    },
  };
}

/** A legend of the diverging scale; its middle is zero. */
export const divergingLegend = () => legend((t) => diverging(t), -1);

/** A legend of the sequential scale. */
export const sequentialLegend = () => legend((t) => sequential(t), 0);
