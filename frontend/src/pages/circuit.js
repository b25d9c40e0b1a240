// The page of `caseback circuit`: the graph with its nodes, the curve of how much fewer edges do, and the judgement.

import { curveView } from "../circuit/curve.js";
import { graphView } from "../circuit/graph.js";
import { parse } from "../circuit/layout.js";
import { nodePanel } from "../circuit/node_panel.js";
import { verdictView } from "../circuit/verdict.js";
import { recall, remember } from "../kit/address.js";
import { h, tokenText } from "../kit/dom.js";
import { TOKENS, documentEnd } from "../kit/footer.js";
import { fact, masthead } from "../kit/masthead.js";
import { count, number, percent } from "../kit/numbers.js";
import { page } from "../kit/page.js";
import { part } from "../kit/part.js";

function sections(doc) {
  const curve = doc.curves.length ? curveView(doc) : null;
  const members = doc.edges.filter((edge) => edge.in).length;
  const panel = nodePanel(doc, (name) => graph.select(name));
  const graph = graphView(doc, {
    onNode: (name) => {
      panel.show(name);
      remember("node", name);
    },
    onCount: (kept) => curve?.mark(kept ?? members),
  });

  // The chosen node is in the page's address, so that a link leads to it.
  const linked = recall("node");
  if (linked !== null && parse(linked).base in doc.readings.nodes) graph.select(linked);

  return [
    masthead(doc.model.name, `${doc.model.layers.length} layers · width ${count(doc.model.d_model)}`),
    h(
      "section",
      { class: "question" },
      h("h1", {}, doc.task ? `Which components are needed for ${doc.task}?` : "Which components are in this circuit?"),
      h(
        "p",
        { class: "lede" },
        doc.tokens.map((token) => h("span", { class: "chip bare" }, tokenText(token.visible))),
        " → ",
        h("span", { class: "chip target" }, tokenText(doc.predictions[0].visible)),
      ),
      facts(doc),
    ),
    part(
      "graph",
      "Which components, along which edges",
      "Layers upwards. An edge says that a later component reads what an earlier one wrote; heads read through query, key and value apart.",
      h("div", { class: "split graph-split" }, graph.element, panel.element),
    ),
    curve
      ? part(
          "curve",
          "How much of the behaviour, for how many edges",
          [
            "The best edges of each method, all others carrying something else. 0 is every edge cut, 1 the whole model. ",
            h("span", { class: "entry" }, "Primer 3.2.21"),
          ],
          curve.element,
        )
      : null,
    doc.judgement
      ? part(
          "verdict",
          "Is it faithful, complete, minimal?",
          "Each question by the measure that the literature gives it.",
          ...verdictView(doc),
        )
      : null,
    documentEnd({ ...doc, provenance: { ...doc.provenance, ...described(doc.about) } }, READING),
  ];
}

function facts({ size, judgement, other, total }) {
  const first = judgement?.faithfulness[0];
  return h(
    "dl",
    { class: "facts four" },
    fact(count(size.edges), "edges", `${percent(size.share)} of the model’s ${count(total)}`),
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

// How the circuit was found, as far as it can be said in a word.
const described = (about) =>
  Object.fromEntries(Object.entries(about).filter(([, value]) => ["string", "number", "boolean"].includes(typeof value)));

const READING = [
  TOKENS,
  [
    "Writes",
    "A write’s tokens are read through the final norm, frozen at its value there, and the unembedding, less the mean over the vocabulary.",
  ],
];

page(sections);
