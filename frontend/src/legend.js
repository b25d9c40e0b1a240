// The key of a colour scale: a strip of it with its ends named.

import { h } from "./dom.js";
import { diverging, painted, sequential } from "./theme.js";

const STOPS = 24;

function legend(ramp, from) {
  const strip = h("span", { class: "legend-strip" });
  const ends = [h("span", {}), h("span", {})];
  painted(() => {
    const stops = Array.from({ length: STOPS + 1 }, (_, i) => ramp(from + ((1 - from) * i) / STOPS).fill);
    strip.style.setProperty("background", `linear-gradient(to right, ${stops.join(", ")})`);
  });
  return {
    element: h("div", { class: "legend" }, ends[0], strip, ends[1]),
    name(low, high) {
      ends[0].replaceChildren(low);
      ends[1].replaceChildren(high);
    },
  };
}

/** A legend of the diverging scale; its middle is zero. */
export const divergingLegend = () => legend((t) => diverging(t), -1);

/** A legend of the sequential scale. */
export const sequentialLegend = () => legend((t) => sequential(t), 0);
