// Where the answer comes back: clean activations put into the corrupt run, place by place.

import { h, tokenChip, tokenText } from "../kit/dom.js";
import { signed } from "../kit/numbers.js";
import { canvasGrid } from "../kit/canvas_grid.js";
import { choice } from "../kit/choice.js";
import { divergingLegend } from "../kit/legend.js";
import { diverging } from "../kit/theme.js";
import { tipTable } from "../kit/tooltip.js";
import { figure, part } from "../kit/part.js";

const LEFT = 64;

/** The section, or nothing where the explanation had no counterfactual. */
export function patchingView(doc) {
  const { patching, tokens } = doc;
  if (!patching) return null;
  const differs = tokens.map((token, c) => token.id !== patching.corrupt[c].id);
  return part(
    "patching",
    "Where the answer comes back",
    [
      "The same prompt was run with other words. Each cell puts the clean run’s activation of one place into that corrupt run and asks how much of the difference in logit difference it brings back: 0 is the corrupt run, 1 the clean one. ",
      h("span", { class: "entry" }, `Primer ${patching.entry}`),
    ],
    prompts(doc, differs),
    h(
      "div",
      { class: "split patching" },
      figure(
        "Layers and positions",
        "Rows are layers, the last one on top; before each layer for the stream, after each block for its outputs.",
        positionMap(doc, differs),
      ),
      figure("Heads", "All positions of one head’s output at once.", headMap(doc)),
    ),
  );
}

function prompts({ tokens, patching }, differs) {
  const line = (name, said, value) =>
    h(
      "div",
      { class: "pair-line" },
      h("span", { class: "pair-name" }, name),
      h(
        "span",
        { class: "pair-tokens", dir: "auto" },
        said.map((token, c) => h("span", { class: differs[c] ? "chip differs" : "chip bare" }, tokenText(token.visible))),
      ),
      h("span", { class: "num" }, signed(value)),
    );
  return h(
    "div",
    { class: "pair" },
    line("clean", tokens, patching.clean_metric),
    line("corrupt", patching.corrupt, patching.corrupt_metric),
  );
}

// At least 1, so that a map on which nothing matters stays pale; what was not exchanged is null.
const largest = (rows) => Math.max(1, ...rows.map((row) => row.reduce((m, v) => Math.max(m, Math.abs(v ?? 0)), 0)));

const bounds = (legend, most) => legend.name(`−${trimmed(most)}`, `+${trimmed(most)}`);

const trimmed = (value) => value.toFixed(value === Math.round(value) ? 0 : 2);

const rowHeight = (rows) => (rows <= 14 ? 26 : rows <= 40 ? 17 : 11);

function positionMap(doc, differs) {
  const { patching, tokens, model, position } = doc;
  const layers = patching.maps[0].layers ?? [...Array(model.n_layers).keys()];
  const rows = layers.length;
  const layerOf = (r) => layers[rows - 1 - r];
  const legend = divergingLegend();
  let shown = patching.maps[0];
  let most = 1;
  const value = (r, c) => shown.recovery[rows - 1 - r][c];
  const grid = canvasGrid({
    rows,
    cols: tokens.length,
    left: LEFT,
    bottom: 38,
    label: "Recovery by layer and position. Arrow keys move.",
    size: (room) => ({
      cellWidth: room / tokens.length < 34 ? 40 : Math.min(84, room / tokens.length),
      cellHeight: rowHeight(rows),
    }),
    cell: (r, c) => ({ ...diverging(value(r, c) / most), text: Math.abs(value(r, c)) >= 0.1 ? short(value(r, c)) : "" }),
    rowLabel: (r) => `layer ${layerOf(r)}`,
    colLabel: (c) => tokens[c].visible,
    frame: () => ({ col: position }),
    tip: (r, c) =>
      tipTable(
        [`${shown.label}, layer ${layerOf(r)}`],
        [
          ["recovered", signed(value(r, c))],
          ["clean token", tokenChip(tokens[c], "bare")],
          ["corrupt token", differs[c] ? tokenChip(patching.corrupt[c], "bare") : "the same"],
          ["position", String(c)],
        ],
      ),
    say: (r, c) => `${shown.label}, layer ${layerOf(r)}, token ${c} ${tokens[c].visible}: ${signed(value(r, c))}`,
    start: "right",
  });
  const control = choice(
    "Patched",
    patching.maps.map((map) => ({ value: map, label: map.label, hint: map.site })),
    (map) => {
      shown = map;
      most = largest(map.recovery);
      bounds(legend, most);
      grid.redraw();
    },
  );
  return h("div", {}, h("div", { class: "toolbar" }, control.element, legend.element), grid.element);
}

const said = (value) => (value === null ? "not exchanged: attribution patching ranks it below those that were" : signed(value));

function headMap({ patching, model }) {
  const { n_layers: rows, n_heads: cols } = model;
  const layerOf = (r) => rows - 1 - r;
  const most = largest(patching.heads);
  const value = (r, c) => patching.heads[layerOf(r)][c];
  const legend = divergingLegend();
  bounds(legend, most);
  const grid = canvasGrid({
    rows,
    cols,
    left: LEFT,
    bottom: 24,
    label: "Recovery by layer and head. Arrow keys move.",
    size: (room) => ({ cellWidth: Math.max(11, Math.min(52, room / cols)), cellHeight: rowHeight(rows) }),
    cell: (r, c) => {
      if (value(r, c) === null) return { ...diverging(0), text: "·" };
      return { ...diverging(value(r, c) / most), text: Math.abs(value(r, c)) >= 0.1 ? short(value(r, c)) : "" };
    },
    rowLabel: (r) => `layer ${layerOf(r)}`,
    colLabel: (c) => `H${c}`,
    tip: (r, c) => tipTable(`L${layerOf(r)}H${c}`, [["recovered", said(value(r, c))]]),
    say: (r, c) => `L${layerOf(r)}H${c}: ${said(value(r, c))}`,
  });
  return h("div", {}, h("div", { class: "toolbar" }, legend.element), grid.element);
}

const short = (value) => value.toFixed(1).replace("-", "−");
