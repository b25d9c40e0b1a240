// The page of a circuit: reads the document that it carries and lays out graph, curve and judgement.

import { h, tokenText } from "./dom.js";
import { mountTooltip } from "./tooltip.js";
import { count, number, percent } from "./numbers.js";
import { part } from "./part.js";
import { brand } from "./brand.js";
import { graphView } from "./circuit/graph.js";
import { parse } from "./circuit/layout.js";
import { nodePanel } from "./circuit/node_panel.js";
import { curveView } from "./circuit/curve.js";
import { verdictView } from "./circuit/verdict.js";

const doc = JSON.parse(document.getElementById("document").textContent);
mountTooltip();

const curve = doc.curves.length ? curveView(doc) : null;
const members = doc.edges.filter((edge) => edge.in).length;
const panel = nodePanel(doc, (name) => graph.select(name));
const graph = graphView(doc, {
  onNode: (name) => {
    panel.show(name);
    history.replaceState(null, "", name === null ? location.pathname : `#${encodeURIComponent(name)}`);
  },
  onCount: (kept) => curve?.mark(kept ?? members),
});

// The chosen node is in the page's address, so that a link leads to it.
const linked = decodeURIComponent(location.hash.slice(1));
if (parse(linked).base in doc.readings.nodes) graph.select(linked);

const fact = (value, name, more) =>
  h("div", { class: "fact" }, h("dt", {}, name), h("dd", { class: "fact-value" }, value), h("dd", { class: "fact-more" }, more));

function facts() {
  const { size, judgement, other } = doc;
  const first = judgement?.faithfulness[0];
  return h(
    "dl",
    { class: "facts four" },
    fact(count(size.edges), "edges", `${percent(size.share)} of the model’s ${count(doc.total)}`),
    fact(`${count(size.heads)} + ${count(size.mlps)}`, "heads and MLPs", size.neurons ? `${count(size.neurons)} neurons named` : "that the edges join"),
    first
      ? fact(number(first.recovered), `recovered (${first.ablation})`, `95 % of resampled prompts: ${number(first.recovered_low)} to ${number(first.recovered_high)}`)
      : null,
    other
      ? fact(number(other.iou_edges), `overlap with ${other.name}`, `${count(other.shared)} edges shared, ${count(other.only_here)} only here, ${count(other.only_there)} only there`)
      : judgement?.completeness
        ? fact(percent(Math.min(9.99, judgement.completeness.worst_share)), "widest completeness gap", "circuit against model, the same nodes gone")
        : null,
  );
}

const said = Object.entries(doc.about).filter(([, value]) => ["string", "number", "boolean"].includes(typeof value));

document.getElementById("circuit").append(
  h(
    "div",
    { class: "page" },
    h(
      "header",
      { class: "masthead" },
      brand(),
      h("p", { class: "model" }, h("b", {}, doc.model.name), ` · ${doc.model.layers.length} layers · width ${count(doc.model.d_model)}`),
    ),
    h(
      "section",
      { class: "question" },
      h("h1", {}, doc.task ? `A circuit for ${doc.task}` : "A circuit"),
      h("p", { class: "lede" }, doc.tokens.map((token) => h("span", { class: "chip bare" }, tokenText(token.visible))), " → ", h("span", { class: "chip target" }, tokenText(doc.predictions[0].visible))),
      facts(),
    ),
    part(
      "graph",
      "Which components, along which edges",
      "Layers upwards. An edge says that a later component reads what an earlier one wrote; heads read through query, key and value apart.",
      h("div", { class: "split graph-split" }, graph.element, panel.element),
    ),
    curve
      ? part("curve", "How much of the behaviour, for how many edges", ["The best edges of each method, all others carrying something else. 0 is every edge cut, 1 the whole model. ", h("span", { class: "entry" }, "Primer 3.2.21")], curve.element)
      : null,
    doc.judgement ? part("verdict", "Is it faithful, complete, minimal?", "Each question by the measure that the literature gives it.", ...verdictView(doc)) : null,
    h(
      "footer",
      {},
      h("h3", {}, "Provenance"),
      h("dl", { class: "provenance" }, [...Object.entries(doc.provenance), ...said].map(([key, value]) => [h("dt", {}, key), h("dd", {}, String(value))])),
      h("p", { class: "note" }, "Numbers such as 3.2.21 are entries of A Primer on the Inner Workings of Transformer-based Language Models (arXiv 2405.00208). A write’s tokens are read through the final norm, frozen at its value there, and the unembedding, less the mean over the vocabulary."),
    ),
  ),
);
