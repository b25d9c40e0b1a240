// Methods against one another: their scores in one map, their agreement, and what the model loses without their tokens.

import { line } from "d3-shape";
import { scaleLinear } from "d3-scale";
import { h, s, tokenChip } from "../kit/dom.js";
import { number, percent, signed } from "../kit/numbers.js";
import { canvasGrid } from "../kit/canvas_grid.js";
import { choice } from "../kit/choice.js";
import { divergingLegend, sequentialLegend } from "../kit/legend.js";
import { diverging, sequential } from "../kit/theme.js";
import { hideTip, showTip, tipTable, tipped } from "../kit/tooltip.js";
import { figure } from "../kit/part.js";

const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-12);

/** Every method a row, every token a column, each row on its own scale; nothing for a single method. */
export function sideBySide(doc) {
  const { tokens } = doc;
  const { methods } = doc.inputs;
  if (methods.length < 2) return null;
  const most = methods.map(({ scores }) => largest(scores));
  const rank = methods.map(({ scores }) => ranks(scores));
  const legend = divergingLegend();
  legend.name("−1", "+1 of a method’s largest");
  const share = (r, c) => methods[r].scores[c] / most[r];
  const grid = canvasGrid({
    rows: methods.length,
    cols: tokens.length,
    left: Math.min(168, 26 + 6.6 * Math.max(...methods.map(({ label }) => label.length))),
    bottom: 38,
    label: "Scores by method and token, each method on its own scale. Arrow keys move.",
    size: (room) => ({
      cellWidth: room / tokens.length < 40 ? 46 : Math.min(96, room / tokens.length),
      cellHeight: methods.length <= 12 ? 28 : 20,
    }),
    cell: (r, c) => ({
      ...diverging(share(r, c)),
      text: Math.abs(share(r, c)) >= 0.1 ? signed(methods[r].scores[c]) : "",
    }),
    rowLabel: (r) => methods[r].label,
    colLabel: (c) => tokens[c].visible,
    tip: (r, c) =>
      tipTable(
        [methods[r].label, " · ", tokenChip(tokens[c])],
        [
          ["score", signed(methods[r].scores[c])],
          ["of its largest", percent(Math.abs(share(r, c)))],
          ["rank by size", `${rank[r][c]} of ${tokens.length}`],
          ["number", String(c)],
        ],
      ),
    say: (r, c) => `${methods[r].label}, token ${c} ${tokens[c].visible}: ${signed(methods[r].scores[c])}`,
  });
  return figure(
    "Side by side",
    "A row is a method, a column a token; the same column in one colour is what they agree on.",
    grid.element,
    legend.element,
  );
}

const ranks = (scores) =>
  scores.map((score) => 1 + scores.filter((other) => Math.abs(other) > Math.abs(score)).length);

/** Agreement and faithfulness of methods, from a document's comparison. */
export function comparisonFigures(comparison, methods) {
  const faithful = figure(
    "Does the model bear them out?",
    `What the metric loses without a method’s first tokens (upper bar, better long), and with them alone (lower bar, better short or to the left), averaged over how many. A token gives way to the ${comparison.baseline} baseline.`,
    faithfulness(comparison, methods),
  );
  const curved = figure(
    "As tokens go, as tokens come",
    "Dashed, plum: the metric as the highest scores are taken out one by one; it should fall early. Solid, teal: as they are put in; it should rise early. Grey: the other methods.",
    curves(comparison, methods),
  );
  return [
    h("div", { class: "split even" }, faithful, curved),
    methods.length < 2
      ? null
      : figure(
          "Do they agree?",
          "Of the sizes of scores, special tokens left out. High agreement says little where all methods share an assumption; low agreement says that not all can be right.",
          agreement(comparison, methods),
        ),
  ];
}

function faithfulness(comparison, methods) {
  const { chance } = comparison;
  const rows = methods.map(({ label }, i) => ({
    label,
    without: comparison.comprehensiveness[i],
    alone: comparison.sufficiency[i],
  }));
  const byChance = chance && {
    label: "Random orders",
    without: chance.comprehensiveness.mean,
    alone: chance.sufficiency.mean,
    spread: [chance.comprehensiveness.sd, chance.sufficiency.sd],
  };
  const all = byChance ? [...rows, byChance] : rows;
  const values = all.flatMap(({ without, alone }) => [without, alone]);
  const low = Math.min(0, ...values),
    high = Math.max(0, ...values);
  const share = (value) => (100 * (value - low)) / (high - low || 1);
  const bar = (value, kind) =>
    h("span", {
      class: `bar ${kind}`,
      style: {
        left: `${share(Math.min(0, value))}%`,
        width: `${Math.max(0.4, share(Math.max(0, value)) - share(Math.min(0, value)))}%`,
      },
    });
  return h(
    "table",
    { class: "paired faithful" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, "method"),
        h("th", { scope: "col" }, ""),
        h("th", { scope: "col", class: "num" }, "without"),
        h("th", { scope: "col", class: "num" }, "alone"),
      ),
    ),
    h(
      "tbody",
      {},
      all.map((row) =>
        tipped(
          h(
            "tr",
            { tabindex: 0, class: row === byChance ? "by-chance" : null },
            h("th", { scope: "row" }, row.label),
            h(
              "td",
              { class: "pair" },
              h(
                "span",
                { class: "pair-track" },
                h("span", { class: "zero", style: { left: `${share(0)}%` } }),
                bar(row.without, "claimed seq"),
                bar(row.alone, "measured sum"),
              ),
            ),
            h("td", { class: "num" }, h("b", {}, signed(row.without))),
            h("td", { class: "num" }, signed(row.alone)),
          ),
          () =>
            tipTable(row.label, [
              ["lost without its tokens", signed(row.without) + plusMinus(row.spread?.[0])],
              ["lost with them alone", signed(row.alone) + plusMinus(row.spread?.[1])],
            ]),
        ),
      ),
    ),
  );
}

const plusMinus = (spread) => (spread === undefined ? "" : ` ± ${number(spread)}`);

function curves(comparison, methods) {
  const { share, deletion, insertion, value } = comparison;
  const width = 520,
    height = 280,
    pad = { left: 46, right: 24, top: 12, bottom: 40 };
  const all = [value, ...deletion.flat(), ...insertion.flat()];
  const x = scaleLinear([0, 1], [pad.left, width - pad.right]);
  const y = scaleLinear([Math.min(0, ...all), Math.max(0, ...all)], [height - pad.bottom, pad.top]).nice(5);
  const path = (values) =>
    line(
      (_, i) => x(share[i]),
      (v) => y(v),
    )(values);
  const drawn = methods.map((_, m) => ({
    out: s("path", { class: "curve", d: path(deletion[m]) }),
    in: s("path", { class: "curve", d: path(insertion[m]) }),
  }));
  const front = s("g", {});
  const text = (tick) => String(tick).replace("-", "−");
  const svg = s(
    "svg",
    {
      class: "curves",
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": methods
        .map(({ label }, m) => `${label}: from ${signed(value)} to ${signed(deletion[m].at(-1))} as tokens go`)
        .join("; "),
    },
    y
      .ticks(5)
      .map((tick) => [
        s("line", { class: tick === 0 ? "zero" : "tick", x1: x(0), x2: x(1), y1: y(tick), y2: y(tick) }),
        s("text", { class: "axis", x: pad.left - 8, y: y(tick) + 4, "text-anchor": "end" }, text(tick)),
      ]),
    [0, 0.25, 0.5, 0.75, 1].map((tick) =>
      s(
        "text",
        { class: "axis", x: x(tick), y: height - pad.bottom + 18, "text-anchor": "middle" },
        `${100 * tick}%`,
      ),
    ),
    s(
      "text",
      { class: "axis faint", x: (x(0) + x(1)) / 2, y: height - 4, "text-anchor": "middle" },
      "of the tokens taken out, or put in",
    ),
    s("line", { class: "whole", x1: x(0), x2: x(1), y1: y(value), y2: y(value) }),
    drawn.map((pair) => [pair.out, pair.in]),
    front,
  );
  let chosen = 0;
  const control = choice(
    "Method",
    methods.map(({ label }, m) => ({ value: m, label })),
    (m) => {
      chosen = m;
      front.replaceChildren(
        s("path", { class: "curve deletion", d: path(deletion[m]) }),
        s("path", { class: "curve insertion", d: path(insertion[m]) }),
        ...share.flatMap((at, i) => [
          s("circle", { class: "deletion", cx: x(at), cy: y(deletion[m][i]), r: 2.6 }),
          s("circle", { class: "insertion", cx: x(at), cy: y(insertion[m][i]), r: 2.6 }),
        ]),
      );
    },
  );
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = x.invert(((event.clientX - box.left) / box.width) * width);
    const i = share.reduce((best, here, k) => (Math.abs(here - at) < Math.abs(share[best] - at) ? k : best), 0);
    showTip(
      tipTable(`${methods[chosen].label} · ${percent(share[i])} of the tokens`, [
        ["taken out", signed(deletion[chosen][i])],
        ["put in", signed(insertion[chosen][i])],
        ["the whole prompt", signed(value)],
      ]),
      event.clientX,
      event.clientY,
    );
  });
  svg.addEventListener("pointerleave", hideTip);
  return h("div", {}, methods.length > 1 ? control.element : null, svg);
}

function agreement(comparison, methods) {
  const n = methods.length;
  const modes = [
    { label: "Spearman", of: comparison.spearman, say: (v) => `ρ = ${number(v)}`, ends: ["0", "1"] },
    { label: "Kendall", of: comparison.kendall, say: (v) => `τ = ${number(v)}`, ends: ["0", "1"] },
    {
      label: `Top ${comparison.k}`,
      hint: `Of the ${comparison.k} largest, the share in common; ${percent(comparison.k_chance)} by chance`,
      of: comparison.top_k,
      say: (v) => `${percent(v)} in common (${percent(comparison.k_chance)} by chance)`,
      ends: ["0%", "100%"],
      text: percent,
    },
  ];
  let mode = modes[0];
  const legend = sequentialLegend();
  const none = "no order to compare";
  const short = (v) => v.toFixed(2).replace("-", "−");
  const grid = canvasGrid({
    rows: n,
    cols: n,
    left: Math.min(168, 26 + 6.6 * Math.max(...methods.map(({ label }) => label.length))),
    bottom: n <= 6 ? 26 : 24,
    label: "Agreement of each method with each other. Arrow keys move.",
    size: (room) => ({ cellWidth: Math.max(34, Math.min(132, room / n)), cellHeight: n <= 12 ? 30 : 22 }),
    cell: (r, c) => {
      const v = mode.of[r][c];
      return v === null ? null : { ...sequential(Math.max(0, v)), text: (mode.text ?? short)(v) };
    },
    rowLabel: (r) => `${n > 6 ? `${r + 1} ` : ""}${methods[r].label}`,
    colLabel: (c) => (n > 6 ? String(c + 1) : methods[c].label),
    tip: (r, c) =>
      tipTable(
        [methods[r].label, " and ", methods[c].label],
        modes.map((m) => [m.label, m.of[r][c] === null ? none : m.say(m.of[r][c])]),
      ),
    say: (r, c) =>
      `${methods[r].label} and ${methods[c].label}: ${mode.of[r][c] === null ? none : mode.say(mode.of[r][c])}`,
  });
  const control = choice(
    "Measure",
    modes.map((m) => ({ value: m, label: m.label, hint: m.hint })),
    (chosen) => {
      mode = chosen;
      legend.name(...mode.ends);
      grid.redraw();
    },
  );
  return h("div", {}, h("div", { class: "toolbar" }, control.element), grid.element, legend.element);
}
