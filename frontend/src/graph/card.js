// What is known of a node: its numbers, the words that it writes, texts where it is active, and its heaviest edges.

import { h, put, tokenChip, tokenText } from "../kit/dom.js";
import { number, percent, signed } from "../kit/numbers.js";
import { tipTable } from "../kit/tooltip.js";
import { looks } from "./looks.js";

const LISTED = 8; // edges each way
const NAMED = 3; // heads of an edge in a line

const KINDS = {
  embed: "embedding",
  pos_embed: "position",
  stream: "stream after the layer",
  stream_mid: "stream after attention",
  mlp: "MLP",
  attention: "attention",
  head: "head",
  neuron: "neuron",
  feature: "feature",
  error: "error: what no feature accounts for",
  bias: "bias",
  logits: "logit",
};

/** `see(text)` is a token's visible text. Returns {element, show(i | null), showEdge(e), tip(i), edgeTip(e)}. */
export function cards(doc, graph, see, { isPinned, onPin, onSelect, isShown }) {
  const { nodes, edges } = doc;
  const why = looks(doc, see);
  const element = h("div", { class: "node-panel" });
  const weight = (e) => (graph.signed ? signed(edges.weight[e]) : percent(edges.weight[e]));
  const colorOf = (e) => (graph.signs[e] === 0 ? "seq" : graph.signs[e] < 0 ? "foil" : "target");
  const place = (i) => (nodes.pos[i] === null ? "all positions" : [tokenText(see(doc.tokens[nodes.pos[i]].text)), ` ${nodes.pos[i]}`]);
  const named = (i) => (nodes.text[i] ? `${nodes.name[i]} · ${see(nodes.text[i])}` : nodes.name[i]);

  function numbers(i) {
    return [
      [KINDS[nodes.kind[i]], nodes.layer[i] < 0 ? "" : nodes.kind[i] === "logits" ? "" : `layer ${nodes.layer[i]}`],
      ["position", place(i)],
      nodes.activation[i] === null ? null : ["activation", signed(nodes.activation[i])],
      nodes.probability[i] === null ? null : ["probability", percent(nodes.probability[i])],
      ["influence", number(nodes.influence[i])],
      graph.signed && graph.effects[i] !== 0 ? ["for the target", signed(graph.effects[i])] : null,
    ].filter(Boolean);
  }

  const heads = (e) => (edges.heads[e] ?? []).slice(0, NAMED).map(([name, share]) => `${name} ${percent(Math.abs(share))}`).join(", ");

  /** Edges with what is at their other `end`. */
  function list(end, title, found) {
    if (!found.length) return null;
    const most = Math.max(...found.map((e) => Math.abs(edges.weight[e])), 1e-30);
    return [
      h("h4", {}, title, found.length > LISTED ? h("span", { class: "faint" }, ` the heaviest ${LISTED} of ${found.length}`) : null),
      h(
        "ol",
        { class: "bars edges graph-edge-list" },
        found.slice(0, LISTED).map((e) => {
          const other = edges[end][e];
          const go = () => onSelect(other);
          return h(
            "li",
            { class: isShown(other) ? "link" : "link unshown", tabindex: 0, title: isShown(other) ? null : "hidden by the sliders", on: { click: go, keydown: (event) => event.key === "Enter" && go() } },
            h("span", { class: "bar-name", title: named(other) }, h("span", { class: "mono" }, nodes.name[other]), nodes.text[other] ? h("span", { class: "faint" }, " ", tokenText(see(nodes.text[other]))) : null),
            h("span", { class: "bar-track" }, h("span", { class: `bar ${colorOf(e)}`, style: { width: `${(100 * Math.abs(edges.weight[e])) / most}%` } })),
            h("span", { class: "bar-value" }, weight(e)),
            edges.heads[e] ? h("span", { class: "edge-heads faint" }, `through ${heads(e)}`) : null,
            why.of(e),
          );
        }),
      ),
    ];
  }

  /** An edge with all heads that it runs through, and why these look there. */
  function showEdge(e) {
    const end = (i) => h("button", { type: "button", class: "feature-link", on: { click: () => onSelect(i) } }, named(i));
    const ways = edges.heads[e] ?? [];
    const most = Math.max(...ways.map(([, share]) => Math.abs(share)), 1e-30);
    put(
      element,
      h("h3", { class: "node-name" }, end(edges.source[e]), " → ", end(edges.target[e])),
      h("dl", { class: "node-numbers" }, [["weight", weight(e)], ["of all its target gets", percent(graph.strength[e])]].map(([name, value]) => [h("dt", {}, name), h("dd", { class: "num" }, value)])),
      ways.length
        ? [
            h("h4", {}, "Through"),
            h(
              "ol",
              { class: "bars edges graph-edge-list" },
              ways.map(([name, share]) =>
                h(
                  "li",
                  {},
                  h("span", { class: "bar-name" }, name === "skip" ? "no head" : name),
                  h("span", { class: "bar-track" }, h("span", { class: "bar seq", style: { width: `${(100 * Math.abs(share)) / most}%` } })),
                  h("span", { class: "bar-value" }, share < 0 ? `against, ${percent(-share)}` : percent(share)),
                ),
              ),
            ),
          ]
        : null,
      why.of(e, true) ?? (ways.length ? h("p", { class: "note" }, "Why these heads look there is kept of those through which most influence moves.") : null),
    );
  }

  const chips = (title, words, sign) =>
    words?.length
      ? h("div", {}, h("h4", {}, title), h("span", { class: "feature-words" }, words.map((text) => tokenChip({ visible: see(text) }, !graph.signed ? "" : sign > 0 ? "target" : "foil"))))
      : null;

  function examples(i) {
    const list = nodes.examples[i];
    if (!list?.length) return null;
    const most = Math.max(...list.flatMap(({ activations }) => activations.map(Math.abs)), 1e-30);
    return [
      h("h4", {}, "Active in"),
      list.map(({ tokens, activations }) => {
        const at = activations.reduce((best, value, t) => (Math.abs(value) > Math.abs(activations[best]) ? t : best), 0);
        return h(
          "div",
          { class: "feature-example" },
          h("b", { class: "num" }, number(activations[at] ?? 0)),
          h(
            "span",
            { class: "feature-text" },
            tokens.map((text, t) =>
              h("span", { class: t === at ? "feature-token at" : "feature-token", title: activations[t] ? number(activations[t]) : null, style: { "--level": (0.75 * Math.abs(activations[t])) / most } }, tokenText(see(text))),
            ),
          ),
        );
      }),
    ];
  }

  function show(i) {
    if (i === null) return put(element, overview());
    const pinned = isPinned(i);
    put(
      element,
      h(
        "div",
        { class: "panel-head" },
        h("h3", { class: "node-name" }, nodes.name[i]),
        h("button", { type: "button", class: "plain", "aria-pressed": String(pinned), on: { click: () => onPin(i) } }, pinned ? "unpin" : "pin"),
      ),
      isShown(i) ? null : h("p", { class: "note" }, "Hidden by the sliders, or leads to no target that they show."),
      nodes.text[i] ? h("p", { class: "node-text" }, tokenText(see(nodes.text[i]))) : null,
      h("dl", { class: "node-numbers" }, numbers(i).map(([name, value]) => [h("dt", {}, name), h("dd", { class: "num" }, value)])),
      h("div", { class: "word-sides" }, chips(nodes.words[i]?.down.length ? "raises" : "reads as", nodes.words[i]?.up, 1), chips("lowers", nodes.words[i]?.down, -1)),
      examples(i),
      list("source", "From", graph.into[i]),
      list("target", "To", graph.out[i]),
    );
  }

  const plain = (i) => nodes.kind[i] === "error" || nodes.kind[i] === "bias";
  const sideOf = (i) => (plain(i) ? "unexplained" : !graph.signed || graph.effects[i] === 0 ? "seq" : graph.effects[i] < 0 ? "foil" : "target");

  // What moves from one position to another: of streams without a sign the rest is nearly all the way up.
  function moves() {
    const reach = (e) => nodes.influence[edges.target[e]] * graph.strength[e];
    const best = edges.source.map((_, e) => e).filter((e) => nodes.pos[edges.source[e]] !== nodes.pos[edges.target[e]]);
    best.sort((a, b) => reach(b) - reach(a));
    const most = reach(best[0]) || 1;
    return [
      h("h3", {}, "What moves between positions"),
      h("p", { class: "note" }, "By the part of all routes that goes along it."),
      h(
        "ol",
        { class: "bars edges graph-edge-list" },
        best.slice(0, 12).map((e) => {
          const go = () => onSelect(edges.target[e]);
          return h(
            "li",
            { class: "link", tabindex: 0, on: { click: go, keydown: (event) => event.key === "Enter" && go() } },
            h("span", { class: "bar-name" }, place(edges.source[e]), " → ", place(edges.target[e])),
            h("span", { class: "bar-track" }, h("span", { class: "bar seq", style: { width: `${(100 * reach(e)) / most}%` } })),
            h("span", { class: "bar-value" }, percent(reach(e))),
            h("span", { class: "edge-heads faint" }, `layer ${nodes.layer[edges.target[e]]}, through ${heads(e)}`),
          );
        }),
      ),
    ];
  }

  function overview() {
    const walk = h("p", { class: "note" }, "Click a node or an edge for its card; Shift-click or p pins it. Arrow keys walk along edges and rows.");
    if (!graph.signed && edges.source.some((source, e) => nodes.pos[source] !== nodes.pos[edges.target[e]])) return [moves(), walk];
    const best = nodes.influence.map((_, i) => i).filter((i) => !graph.always[i]).sort((a, b) => nodes.influence[b] - nodes.influence[a]).slice(0, 14);
    const most = Math.max(...best.map((i) => nodes.influence[i]), 1e-30);
    return [
      h("h3", {}, "The most influential"),
      h(
        "ol",
        { class: "bars edges graph-edge-list" },
        best.map((i) =>
          h(
            "li",
            { class: "link", tabindex: 0, on: { click: () => onSelect(i), keydown: (event) => event.key === "Enter" && onSelect(i) } },
            h("span", { class: "bar-name", title: named(i) }, h("span", { class: "mono" }, nodes.name[i]), nodes.text[i] ? h("span", { class: "faint" }, " ", tokenText(see(nodes.text[i]))) : null),
            h("span", { class: "bar-track" }, h("span", { class: `bar ${sideOf(i)}`, style: { width: `${(100 * nodes.influence[i]) / most}%` } })),
            h("span", { class: "bar-value" }, number(nodes.influence[i])),
          ),
        ),
      ),
      doc.attention?.length ? [h("h3", { class: "graph-looks" }, "Why heads look where they look"), why.all()] : null,
      walk,
    ];
  }

  return {
    element,
    show,
    showEdge,
    tip: (i) => {
      const words = nodes.words[i];
      return tipTable(named(i), numbers(i), words?.up.length ? h("div", { class: "tip-more" }, words.up.map((text) => see(text)).join("  ")) : null);
    },
    edgeTip: (e) =>
      tipTable(`${nodes.name[edges.source[e]]} → ${nodes.name[edges.target[e]]}`, [
        ["weight", weight(e)],
        ["of all its target gets", percent(graph.strength[e])],
        ...(edges.heads[e] ?? []).slice(0, 6).map(([name, share]) => [name, percent(Math.abs(share))]),
      ]),
  };
}
