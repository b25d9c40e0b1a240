// A generation, token by token: what each of its tokens comes from, as a map of targets by sources.

import { h, tokenChip } from "../kit/dom.js";
import { percent, signed } from "../kit/numbers.js";
import { canvasGrid } from "../kit/canvas_grid.js";
import { choice } from "../kit/choice.js";
import { divergingLegend } from "../kit/legend.js";
import { diverging } from "../kit/theme.js";
import { tipTable } from "../kit/tooltip.js";
import { tokenFlow } from "../kit/token_flow.js";
import { figure, part } from "../kit/part.js";

const ABOUT = {
  logit_diff: "what spoke for it against another token",
  logit: "what raised its logit",
  prob: "what raised its probability",
  log_prob: "what raised its log probability",
};

/** The section, or nothing where no generation was attributed. */
export function generationView(doc) {
  const { generation } = doc;
  if (!generation) return null;
  const { sources, targets, n_prompt: first, methods } = generation;
  let method = methods[0];
  let most = 1;
  let byRow = true;
  let chosen = 0;
  const legend = divergingLegend();
  const value = (r, c) => method.scores[r][c];
  const name = (r) => `${r + 1} ${targets[r].visible}`;

  const flow = tokenFlow(sources, {
    label: "What one generated token comes from, token by token",
    tip: (c) => (value(chosen, c) === null ? tokenChip(sources[c]) : tip(chosen, c)),
  });
  const said = h("p", { class: "note" });
  const show = (r) => {
    chosen = r;
    flow.colour((c) => (value(r, c) === null ? null : diverging(value(r, c) / rowMost(r))));
    const { foil, probability } = targets[r];
    said.replaceChildren(
      "Token ",
      String(r + 1),
      ", ",
      tokenChip(targets[r], "target"),
      ` (${percent(probability)}): `,
      ...(foil ? ["what spoke for it against ", tokenChip(foil, "foil")] : [ABOUT[generation.metric]]),
      ".",
    );
  };
  // Some tokens are far surer than others: on one scale their rows would drown the rest.
  const share = (r, c) => value(r, c) / (byRow ? rowMost(r) : most);
  const rowMost = (r) => method.scores[r].reduce((m, v) => Math.max(m, Math.abs(v ?? 0)), 1e-12);

  function tip(r, c) {
    const { foil, probability } = targets[r];
    return tipTable(
      [tokenChip(sources[c]), " → ", tokenChip(targets[r])],
      [
        ["score", signed(value(r, c))],
        ["of its step’s largest", percent(Math.abs(value(r, c)) / rowMost(r))],
        ["probability of the target", percent(probability)],
        ...(foil ? [["instead of", tokenChip(foil, "foil bare")]] : []),
        ["from", c < first ? "the prompt" : "the continuation"],
      ],
    );
  }

  const grid = canvasGrid({
    rows: targets.length,
    cols: sources.length,
    left: 26 + 6.6 * Math.min(18, Math.max(...targets.map((_, r) => name(r).length))),
    top: 2,
    bottom: 38,
    label:
      "A row is a generated token, a column what stands before it. Arrow keys move; Enter shows a row as text.",
    maxHeight: 620,
    size: (room) => ({
      cellWidth: room / sources.length < 38 ? 44 : Math.min(84, room / sources.length),
      cellHeight: targets.length <= 20 ? 26 : 18,
    }),
    cell: (r, c) => {
      const v = value(r, c);
      return v === null
        ? null
        : { ...diverging(share(r, c)), text: Math.abs(share(r, c)) >= 0.1 ? signed(v) : "" };
    },
    rowLabel: name,
    colLabel: (c) => sources[c].visible,
    frame: () => ({ row: chosen }),
    start: "right",
    tip: (r, c) => (value(r, c) === null ? [tokenChip(sources[c]), " comes later"] : tip(r, c)),
    say: (r, c) =>
      value(r, c) === null
        ? `${sources[c].visible} comes after ${name(r)}`
        : `${sources[c].visible} for ${name(r)}: ${signed(value(r, c))}`,
    onPick: (r) => {
      show(r);
      grid.redraw();
    },
  });
  const control = choice(
    "Method",
    methods.map((m) => ({ value: m, label: m.label })),
    (now) => {
      method = now;
      most = method.scores.flat().reduce((m, v) => Math.max(m, Math.abs(v ?? 0)), 1e-12);
      show(chosen);
      rescale();
    },
  );
  const scale = choice(
    "Scale",
    [
      { value: true, label: "Each row", hint: "Every row on the scale of its own largest score" },
      { value: false, label: "One scale", hint: "All rows on the scale of the largest score" },
    ],
    (own) => {
      byRow = own;
      rescale();
    },
  );
  function rescale() {
    const signs = method.scores.some((row) => row.some((v) => v < 0));
    const [low, high] = byRow ? ["−1", "1 of a row’s largest"] : [signed(-most), signed(most)];
    legend.name(signs ? low : "0", high, signs ? -1 : 0);
    grid.redraw();
  }
  return part(
    "generation",
    "The continuation, token by token",
    `A row is a token of the continuation, a column one that stands before it: ${ABOUT[generation.metric]}. The last columns are the continuation itself.`,
    figure(
      "From where each token comes",
      "A click on a row, or Enter, shows it as text below.",
      h("div", { class: "toolbar" }, control.element, scale.element),
      grid.element,
      legend.element,
    ),
    figure("One of them, in the text", null, said, h("div", { class: "strip" }, flow.element)),
  );
}
