// How every page opens: the mark and the name, the model, and a few numbers in short.

import { h, s } from "./dom.js";

const brand = () => h("div", { class: "brand" }, mark(), h("span", {}, "caseback"));

// A watch seen from behind: the case's ring with its notches, and the window in it.
function mark() {
  const notches = Array.from({ length: 6 }, (_, i) =>
    s("line", { x1: 16, y1: 2.4, x2: 16, y2: 6, transform: `rotate(${60 * i} 16 16)` }),
  );
  return s(
    "svg",
    { class: "mark-svg", viewBox: "0 0 32 32", width: 28, height: 28, "aria-hidden": "true" },
    s("circle", { cx: 16, cy: 16, r: 13.6 }),
    notches,
    s("circle", { cx: 16, cy: 16, r: 8 }),
    s("circle", { class: "pivot", cx: 16, cy: 16, r: 2.4 }),
    s("path", { d: "M16 16 L21 11" }),
  );
}

/** The page's head: whose window it is, and into which model. */
export const masthead = (name, described) =>
  h(
    "header",
    { class: "masthead" },
    brand(),
    h("p", { class: "model" }, h("b", {}, name), ` · ${described}`),
  );

/** One number in short. */
export const fact = (value, name, more, kind = "") =>
  h(
    "div",
    { class: `fact ${kind || ""}` },
    h("dt", {}, name),
    h("dd", { class: "fact-value" }, value),
    h("dd", { class: "fact-more" }, more),
  );
