// What comes next, and what each layer would say: drawn again at every keystroke and every change of the model.

import { canvasGrid } from "../kit/canvas_grid.js";
import { h, put, tokenChip, tokenText } from "../kit/dom.js";
import { percent } from "../kit/numbers.js";
import { sequential } from "../kit/theme.js";
import { tipTable } from "../kit/tooltip.js";

const LEFT = 72;
const BOTTOM = 38;

export function predictionView({ onTarget, onFoil }) {
  const list = h("ol", { class: "bars next-tokens" });
  const lens = h("div", { class: "grid-room" });
  return {
    element: h(
      "div",
      { class: "split next" },
      h("figure", {}, h("figcaption", {}, h("h3", {}, "What comes next")), list),
      h("figure", {}, h("figcaption", {}, h("h3", {}, "What each layer would say")), lens),
    ),
    draw(doc, state) {
      put(list, doc.predictions.map((row) => nextToken(row, state, onTarget, onFoil)));
      put(lens, lensGrid(doc));
    },
  };
}

function nextToken(row, state, onTarget, onFoil) {
  const kind = row.text === state.target ? "target" : row.text === state.foil ? "foil" : "";
  const changed = Math.abs(row.prob - row.before) > 5e-4;
  return h(
    "li",
    {},
    h("span", { class: "bar-name" }, tokenChip(row, kind)),
    h(
      "span",
      { class: "bar-track" },
      changed ? h("span", { class: "bar other", style: { width: `${100 * row.before}%` } }) : null,
      h("span", { class: `bar ${kind || "seq"}`, style: { width: `${100 * row.prob}%` } }),
    ),
    h("span", { class: "bar-value" }, percent(row.prob), changed ? h("i", { class: "was" }, ` was ${percent(row.before)}`) : null),
    h(
      "span",
      { class: "picks" },
      h("button", { class: "pick", title: "explain this token", on: { click: () => onTarget(row.text) } }, "why?"),
      h("button", { class: "pick", title: "set the answer against this token", on: { click: () => onFoil(row.text) } }, "not this?"),
    ),
  );
}

function lensGrid({ lens, tokens }) {
  const rows = lens.layers.length;
  const layerOf = (r) => rows - 1 - r; // depth runs upwards
  const name = (r) => (lens.layers[layerOf(r)] === "embed" ? "embed" : `layer ${lens.layers[layerOf(r)]}`);
  return canvasGrid({
    rows,
    cols: tokens.length,
    left: LEFT,
    bottom: BOTTOM,
    maxHeight: 520,
    label: "Logit lens: a row is a layer, the last one on top; a column is a token of the prompt. Arrow keys move.",
    size: (room) => ({ cellWidth: Math.max(64, Math.min(118, room / tokens.length)), cellHeight: rows <= 14 ? 27 : 20 }),
    cell: (r, c) => ({
      // what stands there before any layer is the token itself, however sure the reading is of it
      ...sequential(lens.layers[layerOf(r)] === "embed" ? 0 : lens.top_prob[layerOf(r)][c][0]),
      text: lens.top_text[layerOf(r)][c][0],
    }),
    rowLabel: name,
    colLabel: (c) => tokens[c].visible,
    frame: () => ({ col: tokens.length - 1 }),
    tip: (r, c) =>
      tipTable(
        `${name(r)}, after ${tokens[c].visible}`,
        lens.top_text[layerOf(r)][c].map((text, k) => [tokenText(text), percent(lens.top_prob[layerOf(r)][c][k])]),
      ),
    say: (r, c) => `${name(r)}, after ${tokens[c].visible}: ${lens.top_text[layerOf(r)][c][0]}`,
    start: "right",
  }).element;
}
