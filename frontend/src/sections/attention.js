// What the heads attend to: one head's pattern as a map, and one query's attention on the prompt itself.

import { h, put, tokenChip } from "../kit/dom.js";
import { number, percent, signed } from "../kit/numbers.js";
import { canvasGrid } from "../kit/canvas_grid.js";
import { choice } from "../kit/choice.js";
import { sequentialLegend } from "../kit/legend.js";
import { unpack } from "../kit/patterns.js";
import { sequential } from "../kit/theme.js";
import { tipTable } from "../kit/tooltip.js";
import { tokenFlow } from "../kit/token_flow.js";
import { part } from "../kit/part.js";

const LISTED = 6;
// Attention mostly goes to one sink token; its square root keeps the rest of the row apart from nothing.
const shade = (attention) => sequential(Math.sqrt(attention));

let choose = () => false;

/** Shows a head's attention, from anywhere on the page; nothing happens for a head without a pattern. */
export function chooseHead(name) {
  if (choose(name))
    document.getElementById("attention").scrollIntoView({ behavior: "smooth", block: "start" });
}

export function attentionView(doc) {
  const heads = doc.heads.filter((head) => head.pattern);
  const body = h(
    "div",
    {},
    h("p", { class: "note" }, heads.length ? "Reading the patterns …" : "No attention pattern was kept."),
  );
  if (heads.length) {
    Promise.all(heads.map((head) => unpack(head.pattern)))
      .then((patterns) => put(body, explorer(doc, heads, patterns)))
      .catch((error) =>
        put(
          body,
          h(
            "p",
            { class: "note warn" },
            `The attention patterns could not be read: ${error.message}. A browser from 2023 or later is needed.`,
          ),
        ),
      );
  }
  return part(
    "attention",
    "What the heads attend to",
    "The heads with the largest direct share or effect of ablation, each beside its direct share. A row of the map is a query, a column a key. Point at a token to see where it looks; click to keep it.",
    body,
  );
}

function explorer(doc, heads, patterns) {
  const { tokens, position } = doc;
  const n = tokens.length;
  let current = 0,
    kept = position,
    query = position;
  const masked = (q, k) => k > q && patterns[current].at(q, k) === 0;

  const title = h("h3", {});
  const looksAt = h("ol", { class: "bars" }),
    seenBy = h("ol", { class: "bars" });
  const legend = sequentialLegend();
  legend.name("0", h("span", {}, "1 ", h("span", { class: "faint" }, "(square-root scale)")));
  const flow = tokenFlow(tokens, {
    label: "The prompt, shaded by the attention of one query token; point at a token to make it the query",
    onToken: (i, pinned) => {
      if (pinned) kept = i;
      look(i ?? kept);
    },
  });
  const left = 84,
    bottom = 84;
  const grid = canvasGrid({
    rows: n,
    cols: n,
    left,
    bottom,
    top: 6,
    upright: true,
    maxHeight: 604,
    start: "bottom",
    label: "Attention pattern: a row is a query token, a column a key token. Arrow keys move.",
    size: (room) => {
      const side = Math.max(4, Math.min(30, Math.floor(Math.min(room, 476) / n)));
      return { cellWidth: side, cellHeight: side };
    },
    cell: (r, c) => (masked(r, c) ? null : shade(patterns[current].at(r, c))),
    rowLabel: (r) => tokens[r].visible,
    colLabel: (c) => tokens[c].visible,
    frame: () => ({ row: query }),
    tip: (r, c) =>
      tipTable(heads[current].name, [
        ["query", [tokenChip(tokens[r]), ` ${r}`]],
        ["key", [tokenChip(tokens[c]), ` ${c}`]],
        ["attention", masked(r, c) ? "masked" : number(patterns[current].at(r, c))],
      ]),
    say: (r, c) => `${tokens[r].visible} to ${tokens[c].visible}: ${number(patterns[current].at(r, c))}`,
    onCell: (r) => look(r ?? kept),
    onPick: (r) => {
      kept = r;
      look(r);
    },
  });

  function look(at) {
    query = at;
    const pattern = patterns[current];
    flow.colour((i) => (masked(query, i) ? null : shade(pattern.at(query, i))));
    flow.mark(query);
    put(
      title,
      `${heads[current].name} from `,
      tokenChip(tokens[query]),
      h("span", { class: "faint" }, ` position ${query}`),
    );
    put(
      looksAt,
      largest((i) => pattern.at(query, i)),
    );
    put(
      seenBy,
      largest((i) => pattern.at(i, query)),
    );
    grid.redraw();
  }

  const largest = (of) =>
    Array.from(tokens.keys())
      .sort((a, b) => of(b) - of(a))
      .slice(0, LISTED)
      .filter((i) => of(i) > 0)
      .map((i) =>
        h(
          "li",
          {},
          h(
            "span",
            { class: "bar-name" },
            tokenChip(tokens[i], "bare"),
            h("span", { class: "faint" }, ` ${i}`),
          ),
          h(
            "span",
            { class: "bar-track" },
            h("span", { class: "bar seq", style: { width: `${100 * of(i)}%` } }),
          ),
          h("span", { class: "bar-value" }, percent(of(i))),
        ),
      );

  const control = choice(
    "Choose a head",
    heads.map((head, index) => ({
      value: index,
      label: [
        h("b", {}, head.name),
        h("span", { class: head.dla < 0 ? "foil" : "target" }, signed(head.dla)),
      ],
      hint: `direct attribution ${signed(head.dla)}, ablation effect ${head.ablation === null || head.ablation === undefined ? "not measured" : signed(head.ablation)}`,
    })),
    (index) => {
      current = index;
      look(query);
    },
    "heads",
  );
  choose = (name) => control.choose(heads.findIndex((head) => head.name === name));

  return [
    control.element,
    h(
      "div",
      { class: "split even attention" },
      h("figure", {}, grid.element, legend.element),
      h(
        "div",
        {},
        h("div", { class: "panel-head" }, title),
        h("div", { class: "strip" }, flow.element),
        h(
          "div",
          { class: "split even" },
          h("div", {}, h("h3", {}, "It looks at"), looksAt),
          h("div", {}, h("h3", {}, "It is looked at by"), seenBy),
        ),
      ),
    ),
  ];
}
