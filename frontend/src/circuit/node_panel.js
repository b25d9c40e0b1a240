// What one node does: its edges, what it attends to, and what its write says in tokens.

import { h, put, tokenText } from "../kit/dom.js";
import { canvasGrid } from "../kit/canvas_grid.js";
import { number, percent, signed } from "../kit/numbers.js";
import { unpack } from "../kit/patterns.js";
import { sequential } from "../kit/theme.js";
import { tipTable } from "../kit/tooltip.js";
import { tokenFlow } from "../kit/token_flow.js";
import { parse } from "./layout.js";

const LISTED = 7;

/** {element, show(name | null)} */
export function nodePanel(doc, select) {
  const element = h("div", { class: "node-panel", "aria-live": "polite" });
  const last = doc.tokens.length - 1;
  let at = last;

  function show(name) {
    if (name === null) return put(element, about());
    const node = parse(name);
    const role = doc.roles[name] ?? doc.roles[node.base];
    const mine = (end) => (edge) => edge[end] === name || parse(edge[end]).base === node.base;
    const into = doc.edges.filter(mine("target"));
    const out = doc.edges.filter(mine("source"));
    put(
      element,
      h("h3", { class: "node-name" }, name, role ? h("span", { class: "role" }, role) : null),
      node.kind === "head" && doc.patterns[node.base] ? pattern(node.base) : null,
      doc.readings.nodes[node.base] ? reading(node) : null,
      into.length ? [h("h4", {}, "Reads"), edgeList(into, "source")] : null,
      out.length ? [h("h4", {}, "Is read by"), edgeList(out, "target")] : null,
    );
  }

  function about() {
    return [
      h("h3", {}, "Example"),
      line("prompt", doc.tokens),
      doc.counterfactual ? line("counterfactual", doc.counterfactual) : null,
      h("h4", {}, "The model goes on with"),
      h(
        "ol",
        { class: "bars" },
        doc.predictions.slice(0, LISTED).map((token) => bar(tokenText(token.visible), token.prob / doc.predictions[0].prob, percent(token.prob), "seq")),
      ),
      h("p", { class: "note" }, "Choose a node of the graph: its attention on this prompt, the tokens that its write promotes, and its edges are shown here."),
    ];
  }

  const line = (name, tokens) =>
    h(
      "p",
      { class: "example" },
      h("span", { class: "faint" }, `${name} `),
      tokens.map((token, i) =>
        h("span", { class: doc.counterfactual && doc.counterfactual[i].text !== doc.tokens[i].text ? "chip differs" : "chip bare" }, tokenText(token.visible)),
      ),
    );

  const bar = (name, share, value, kind, click) =>
    h(
      "li",
      click ? { tabindex: 0, class: "link", on: { click, keydown: (event) => event.key === "Enter" && click() } } : {},
      h("span", { class: "bar-name" }, name),
      h("span", { class: "bar-track" }, h("span", { class: `bar ${kind}`, style: { width: `${Math.max(0, Math.min(1, share)) * 100}%` } })),
      h("span", { class: "bar-value" }, value),
    );

  function edgeList(edges, end) {
    const most = Math.max(...edges.map(({ score }) => Math.abs(score ?? 0)), 0) || 1;
    const name = (edge) => `${edge[end]}${end === "target" && edge.slot ? `.${edge.slot}` : ""}${end === "source" && edge.slot ? ` → ${edge.slot}` : ""}`;
    return h(
      "ol",
      { class: "bars edges" },
      edges.slice(0, LISTED).map((edge) =>
        bar(
          h("span", { class: edge.in ? "mono" : "mono faint" }, name(edge)),
          Math.abs(edge.score ?? 0) / most,
          edge.score === null ? "" : signed(edge.score),
          edge.score * doc.supports < 0 ? "foil" : "target",
          () => select(parse(edge[end]).kind === "kv_head" || !doc.edges.some((e) => parse(e.source).pos) ? parse(edge[end]).base : edge[end]),
        ),
      ),
      edges.length > LISTED ? h("li", { class: "faint" }, `${edges.length - LISTED} more`) : null,
    );
  }

  function reading(node) {
    const body = h("div", { class: "split even reading-split" });
    const title = h("h4", {});
    const draw = () => {
      const [up, down] = doc.readings.nodes[node.base][at];
      const most = Math.max(Math.abs(up[0]?.[1] ?? 0), Math.abs(down[0]?.[1] ?? 0)) || 1;
      const list = (found) =>
        h("ol", { class: "bars" }, found.map(([i, value]) => bar(tokenText(doc.readings.texts[i]), Math.abs(value) / most, signed(value), value < 0 ? "foil" : "target")));
      put(title, node.kind === "logits" ? "The stream says" : "Its write says", h("span", { class: "faint" }, ` at position ${at}`));
      put(body, list(up), list(down));
      flow.mark(at);
    };
    const flow = tokenFlow(doc.tokens, {
      label: "The prompt; choose the position whose write is read",
      onToken: (i, pinned) => {
        if (pinned && i !== null) {
          at = i;
          draw();
        }
      },
    });
    draw();
    return [title, h("div", { class: "strip small-flow" }, flow.element), body];
  }

  function pattern(name) {
    const holder = h("div", { class: "pattern" }, h("p", { class: "note" }, "Reading the pattern …"));
    unpack(doc.patterns[name])
      .then((found) => {
        const n = doc.tokens.length;
        const masked = (r, c) => c > r && found.at(r, c) === 0;
        const grid = canvasGrid({
          rows: n,
          cols: n,
          left: 74,
          bottom: 70,
          upright: true,
          maxHeight: 340,
          start: "bottom",
          label: `Attention of ${name}: a row is a query, a column a key. Arrow keys move.`,
          size: (room) => {
            const side = Math.max(5, Math.min(22, Math.floor(room / n)));
            return { cellWidth: side, cellHeight: side };
          },
          cell: (r, c) => (masked(r, c) ? null : sequential(Math.sqrt(found.at(r, c)))),
          rowLabel: (r) => doc.tokens[r].visible,
          colLabel: (c) => doc.tokens[c].visible,
          tip: (r, c) =>
            tipTable(name, [
              ["query", [tokenText(doc.tokens[r].visible), ` ${r}`]],
              ["key", [tokenText(doc.tokens[c].visible), ` ${c}`]],
              ["attention", masked(r, c) ? "masked" : number(found.at(r, c))],
            ]),
          say: (r, c) => `${doc.tokens[r].visible} to ${doc.tokens[c].visible}: ${number(found.at(r, c))}`,
        });
        put(holder, grid.element);
        grid.redraw();
      })
      .catch((error) => put(holder, h("p", { class: "note warn" }, `The pattern could not be read: ${error.message}.`)));
    return [h("h4", {}, "It looks at"), holder];
  }

  show(null);
  return { element, show };
}
