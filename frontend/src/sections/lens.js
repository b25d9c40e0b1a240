// What each layer already knew: the logit lens at every layer and position, and the logit difference beside it.

import { line } from "d3-shape";
import { scaleLinear } from "d3-scale";
import { h, s, tokenChip, tokenText } from "../kit/dom.js";
import { number, percent, signed, count } from "../kit/numbers.js";
import { canvasGrid } from "../kit/canvas_grid.js";
import { choice } from "../kit/choice.js";
import { sequentialLegend } from "../kit/legend.js";
import { sequential } from "../kit/theme.js";
import { hideTip, showTip, tipTable } from "../kit/tooltip.js";
import { part } from "../kit/part.js";
import { BEFORE_ANY_LAYER } from "./lead.js";

const BOTTOM = 38;
const LEFT = 72;

export function lensView(doc) {
  const { lens, tokens, position } = doc;
  const rows = lens.layers.length;
  // Depth runs upwards: the embedding is the lowest row.
  const layerOf = (r) => rows - 1 - r;
  const layerName = (l) => (lens.layers[l] === BEFORE_ANY_LAYER ? BEFORE_ANY_LAYER : `layer ${lens.layers[l]}`);
  const modes = lensModes(doc);
  let mode = modes[0];
  const legend = sequentialLegend();

  const tip = (r, c) => cellTip(doc, layerOf(r), c, layerName(layerOf(r)));
  const grid = canvasGrid({
    rows,
    cols: tokens.length,
    left: LEFT,
    bottom: BOTTOM,
    label:
      "The lens: a row is a layer, the last one on top; a column is a token of the prompt. Arrow keys move.",
    // Either all columns fit, or they scroll at a width that most tokens fit into.
    size: (room) => ({
      cellWidth: room / tokens.length < 54 ? 64 : Math.min(118, room / tokens.length),
      cellHeight: rowHeight(rows),
    }),
    // what stands there before any layer is the token itself, however sure the reading is of it
    cell: (r, c) => ({
      ...sequential(lens.layers[layerOf(r)] === BEFORE_ANY_LAYER ? 0 : mode.shade(layerOf(r), c)),
      text: lens.texts[lens.top[layerOf(r)][c][0]],
    }),
    rowLabel: (r) => layerName(layerOf(r)),
    colLabel: (c) => tokens[c].visible,
    frame: () => ({ col: position }),
    tip,
    say: (r, c) =>
      `${layerName(layerOf(r))}, token ${c} ${tokens[c].visible}: ${lens.texts[lens.top[layerOf(r)][c][0]]}, ${mode.say(layerOf(r), c)}`,
    onCell: (r) => differences.mark(r),
    start: "right",
  });
  const differences = differencePanel(doc, rowHeight(rows), layerOf, layerName);
  const control = choice(
    "Colour the cells by",
    modes.map((m) => ({ value: m, label: m.label, hint: m.hint })),
    (chosen) => {
      mode = chosen;
      legend.name(...mode.ends);
      grid.redraw();
    },
  );

  const fitted = (lens.kind ?? "logit") !== "logit";
  const reading = fitted ? `as a fitted lens (${lens.kind}) carries it to the end` : "as if the model stopped there";
  return part(
    "lens",
    "What each layer already knew",
    `Every cell reads the residual stream ${reading}, through the final norm and the unembedding. Its text is the likeliest next token; the stronger the colour, the nearer to an answer. The lowest row is the embedding, the token itself before any layer has run: it has no answer yet, and no colour. The framed column is the position explained.`,
    h("div", { class: "toolbar" }, control.element, legend.element),
    h("div", { class: "lens" }, grid.element, differences.element),
  );
}

const rowHeight = (rows) => (rows <= 14 ? 27 : rows <= 26 ? 22 : rows <= 50 ? 17 : 12);

function lensModes({ lens, target, model }) {
  const most = (grid) => Math.max(1e-9, ...grid.map((row) => row.reduce((a, b) => Math.max(a, b), 0)));
  const widest = { entropy: most(lens.entropy), kl: most(lens.kl) };
  const top = (l, c) => lens.top_prob[l][c][0];
  const rank = (l, c) => lens.target_rank[l][c];
  const name = () => tokenChip(target, "bare");
  const nats = (key) => (l, c) => `${number(lens[key][l][c])} nats`;
  return [
    {
      label: "Top token’s probability",
      hint: "How sure the stream is of its likeliest token",
      shade: top,
      say: (l, c) => percent(top(l, c)),
      ends: ["0", "1"],
    },
    {
      label: ["Probability of ", name()],
      hint: "The probability of the target",
      shade: (l, c) => lens.target_prob[l][c],
      say: (l, c) => percent(lens.target_prob[l][c]),
      ends: ["0", "1"],
    },
    {
      label: ["Rank of ", name()],
      hint: "The rank of the target, on a logarithmic scale",
      shade: (l, c) => 1 - Math.log(rank(l, c)) / Math.log(Math.max(2, model.vocab)),
      say: (l, c) => `rank ${rank(l, c)}`,
      ends: [count(model.vocab), "1st"],
    },
    {
      label: "Entropy",
      hint: "How undecided the stream is",
      shade: (l, c) => 1 - lens.entropy[l][c] / widest.entropy,
      say: nats("entropy"),
      ends: [`${number(widest.entropy)} nats`, "0"],
    },
    {
      label: "Distance to the end",
      hint: "KL divergence from the final prediction to the lens",
      shade: (l, c) => 1 - lens.kl[l][c] / widest.kl,
      say: nats("kl"),
      ends: [`KL ${number(widest.kl)}`, "0"],
    },
  ];
}

function cellTip({ lens, tokens, target, foil, position }, l, c, layer) {
  const top = lens.top[l][c].map((text, k) => [tokenText(lens.texts[text]), percent(lens.top_prob[l][c][k])]);
  const rows = [
    [
      tokenChip(target, "target bare"),
      `${percent(lens.target_prob[l][c])}, rank ${count(lens.target_rank[l][c])}`,
    ],
    [tokenChip(foil, "foil bare"), `${percent(lens.foil_prob[l][c])}, rank ${count(lens.foil_rank[l][c])}`],
    ["entropy", `${number(lens.entropy[l][c])} nats`],
    ["KL to final", `${number(lens.kl[l][c])} nats`],
  ];
  if (c === position) rows.push(["logit difference", signed(lens.logit_diff[l])]);
  return [
    tipTable([`${layer} · at `, tokenChip(tokens[c]), ` (${c})`], top),
    h("hr", {}),
    h(
      "table",
      {},
      rows.map(([label, value]) => h("tr", {}, h("td", {}, label), h("td", { class: "num" }, value))),
    ),
  ];
}

function differencePanel(doc, cellHeight, layerOf, layerName) {
  const { lens, target, foil } = doc;
  const values = lens.logit_diff;
  const rows = values.length;
  const width = 236,
    pad = { left: 14, right: 46 };
  const height = rows * cellHeight;
  const x = scaleLinear(
    [Math.min(0, ...values), Math.max(0, ...values) || 1],
    [pad.left, width - pad.right],
  ).nice(4);
  const y = (l) => (rows - 1 - l + 0.5) * cellHeight;
  const path = line(
    (value) => x(value),
    (_, l) => y(l),
  );
  const band = s("rect", { class: "row-band", x: 0, width, height: cellHeight, visibility: "hidden" });
  const ticks = x.ticks(4);
  const svg = s(
    "svg",
    {
      width,
      height: height + BOTTOM,
      role: "img",
      "aria-label": `Logit difference after every layer: ${values.map((v, l) => `${layerName(l)} ${signed(v)}`).join(", ")}`,
    },
    band,
    ticks.map((tick) => [
      s("line", { class: tick === 0 ? "zero" : "tick", x1: x(tick), x2: x(tick), y1: 0, y2: height }),
      s(
        "text",
        { class: "axis", x: x(tick), y: height + 14, "text-anchor": "middle" },
        tick === 0 ? "0" : signed(tick).replace(/\.?0+$/, ""),
      ),
    ]),
    s("text", { class: "axis faint", x: x.range()[0], y: height + 30 }, "logit difference"),
    s("path", { class: "trace", d: path(values) }),
    values.map((value, l) =>
      s("circle", {
        class: value > 0 ? "target" : "foil",
        cx: x(value),
        cy: y(l),
        r: cellHeight >= 17 ? 4 : 3,
      }),
    ),
    s(
      "text",
      { class: "axis strong", x: x(values[rows - 1]) + 9, y: y(rows - 1) + 4 },
      signed(values[rows - 1]),
    ),
  );
  const mark = (r) => {
    band.setAttribute("visibility", r === null ? "hidden" : "visible");
    if (r !== null) band.setAttribute("y", r * cellHeight);
  };
  svg.addEventListener("pointermove", (event) => {
    const r = Math.floor((event.clientY - svg.getBoundingClientRect().top) / cellHeight);
    if (r < 0 || r >= rows) return leave();
    mark(r);
    const l = layerOf(r);
    return showTip(
      tipTable(layerName(l), [
        ["logit difference", signed(values[l])],
        [tokenChip(target, "target bare"), percent(lens.target_prob[l][doc.position])],
        [tokenChip(foil, "foil bare"), percent(lens.foil_prob[l][doc.position])],
      ]),
      event.clientX,
      event.clientY,
    );
  });
  const leave = () => {
    mark(null);
    hideTip();
  };
  svg.addEventListener("pointerleave", leave);
  return { element: h("div", { class: "lens-differences" }, svg), mark };
}
