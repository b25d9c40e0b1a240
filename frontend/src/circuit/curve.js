// Faithfulness over size: what share of the effect the best edges bring back, with the bootstrap interval of each.

import { line as lineOf, area as areaOf } from "d3-shape";
import { scaleLinear, scaleLog } from "d3-scale";
import { h, s } from "../kit/dom.js";
import { count, number, percent } from "../kit/numbers.js";
import { tipTable, tipped } from "../kit/tooltip.js";

const WIDTH = 760;
const HEIGHT = 330;
const MARGIN = { left: 52, right: 18, top: 16, bottom: 46 };

/** {element, mark(edges | null)} */
export function curveView(doc) {
  const { curves } = doc;
  const points = curves.flatMap((curve) => curve.fraction.map((x, i) => ({ x, low: curve.recovered_low[i], high: curve.recovered_high[i], y: curve.recovered[i] })));
  const least = Math.max(Math.min(...points.map(({ x }) => x)), 1 / doc.total / 2);
  const x = scaleLog([least, 1], [MARGIN.left, WIDTH - MARGIN.right]).clamp(true);
  const bottom = Math.min(0, ...points.map(({ y }) => y)) - 0.05;
  const top = Math.max(1.05, ...points.map(({ y }) => y + 0.03));
  const y = scaleLinear([bottom, top], [HEIGHT - MARGIN.bottom, MARGIN.top]);
  const marker = s("line", { class: "curve-mark", y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom });
  const shares = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1].filter((share) => share >= least);
  const clamped = (value) => Math.max(bottom, Math.min(top, value));
  const drawn = curves.map((curve, n) => {
    const at = curve.fraction.map((_, i) => i);
    const band = areaOf()
      .x((i) => x(curve.fraction[i]))
      .y0((i) => y(clamped(curve.recovered_low[i])))
      .y1((i) => y(clamped(curve.recovered_high[i])));
    const line = lineOf()
      .x((i) => x(curve.fraction[i]))
      .y((i) => y(clamped(curve.recovered[i])));
    return s(
      "g",
      { class: `series series-${n % 5}` },
      s("path", { class: "band", d: band(at) }),
      s("path", { class: "curve", d: line(at) }),
      at.map((i) =>
        tipped(s("circle", { cx: x(curve.fraction[i]), cy: y(clamped(curve.recovered[i])), r: 4.2, tabindex: 0 }), () =>
          tipTable(curve.method, [
            ["edges", `${count(curve.edges[i])} (${percent(curve.fraction[i])})`],
            ["on a path", count(curve.kept[i])],
            ["recovered", number(curve.recovered[i])],
            ["interval", `${number(curve.recovered_low[i])} to ${number(curve.recovered_high[i])}`],
          ]),
        ),
      ),
    );
  });
  const svg = s(
    "svg",
    { class: "curve-plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "Share recovered over the share of edges" },
    y.ticks(6).map((value) => [
      s("line", { class: "tick", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: y(value), y2: y(value) }),
      s("text", { class: "axis", x: MARGIN.left - 8, y: y(value), dy: "0.34em", "text-anchor": "end" }, value.toFixed(1).replace("-", "−")),
    ]),
    [0, 1].map((value) => s("line", { class: "zero", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: y(value), y2: y(value) })),
    shares.map((share) => s("text", { class: "axis", x: x(share), y: HEIGHT - MARGIN.bottom + 18, "text-anchor": "middle" }, percentOf(share))),
    s("text", { class: "axis faint", x: (MARGIN.left + WIDTH) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, `share of the ${count(doc.total)} edges (logarithmic)`),
    marker,
    drawn,
  );
  const table = h(
    "table",
    { class: "paired areas" },
    h("thead", {}, h("tr", {}, ["method", "CPR ↑", "CMD ↓", "CPR, log", "CMD, log"].map((name, i) => h("th", { class: i ? "num" : "" }, name)))),
    h(
      "tbody",
      {},
      curves.map((curve, n) =>
        h(
          "tr",
          {},
          h("th", {}, s("svg", { class: `series series-${n % 5}`, width: 26, height: 10 }, s("path", { class: "curve", d: "M1 5H25" })), curve.method),
          [curve.cpr, curve.cmd, curve.cpr_log, curve.cmd_log].map((value) => h("td", { class: "num" }, number(value))),
        ),
      ),
    ),
  );
  return {
    element: h("div", { class: "split wide-left" }, svg, h("div", {}, table, h("p", { class: "note" }, "Areas as the Mechanistic Interpretability Benchmark defines them, and over the logarithm of the share, where small circuits count as much as large ones."))),
    mark(edges) {
      const at = x(Math.max(edges / doc.total, least));
      marker.setAttribute("x1", at);
      marker.setAttribute("x2", at);
    },
  };
}

const percentOf = (share) => `${Number((100 * share).toPrecision(2))}%`;
