// Heads and MLPs by what they do to the answer; a click takes one away and shows what is predicted then.

import { canvasGrid } from "../kit/canvas_grid.js";
import { h, tokenChip } from "../kit/dom.js";
import { divergingLegend } from "../kit/legend.js";
import { signed } from "../kit/numbers.js";
import { diverging } from "../kit/theme.js";
import { tipTable } from "../kit/tooltip.js";
import { changeName } from "./state.js";

export function effectsView(doc, { onPick }) {
  const layers = doc.head.length;
  const heads = Math.max(...doc.head.map((row) => row.length));
  const most = Math.max(1e-9, ...[...doc.head.flat(), ...doc.mlp].map((x) => Math.abs(x ?? 0)));
  const layerOf = (r) => layers - 1 - r;
  const partAt = (r, c) => (c < heads ? { part: "head", layer: layerOf(r), head: c } : { part: "mlp", layer: layerOf(r) });
  const effectAt = (r, c) => (c < heads ? doc.head[layerOf(r)][c] : doc.mlp[layerOf(r)]) ?? null;
  const legend = divergingLegend();
  legend.name(signed(-most), signed(most));
  const grid = canvasGrid({
    rows: layers,
    cols: heads + 1,
    left: 72,
    bottom: 22, // no numbers below the names
    label: "Effects: a row is a layer, the last one on top; a column is a head, the last column the MLP. Enter takes a part away.",
    size: (room) => ({ cellWidth: Math.max(26, Math.min(64, room / (heads + 1))), cellHeight: layers <= 14 ? 27 : 18 }),
    cell: (r, c) => (effectAt(r, c) === null ? null : { ...diverging(effectAt(r, c) / most), text: "" }),
    rowLabel: (r) => `layer ${layerOf(r)}`,
    colLabel: (c) => (c < heads ? `H${c}` : "MLP"),
    tip: (r, c) => tipTable(changeName(partAt(r, c)), [["effect, logits", signed(effectAt(r, c) ?? 0)]], "click: take it away"),
    say: (r, c) => `${changeName(partAt(r, c))}: ${signed(effectAt(r, c) ?? 0)}`,
    onPick: (r, c) => effectAt(r, c) !== null && onPick(partAt(r, c)),
  });
  const how =
    doc.how === "silenced"
      ? "What the answer loses when a part writes nothing: orange parts support it."
      : "What comes back when a part has its write on the prompt, in the run on the counterfactual: orange parts carry the answer.";
  return h(
    "figure",
    {},
    h(
      "figcaption",
      {},
      h("h3", {}, "Heads and MLPs for ", tokenChip(doc.target, "target"), " over ", tokenChip(doc.foil, "foil")),
      h("p", { class: "note" }, `${how} ${signed(doc.value)} logits in all, in the model as it is: changes are not made. Click a part to take it away.`),
    ),
    legend.element,
    grid.element,
  );
}
