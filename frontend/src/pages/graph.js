// The page of `caseback graph`: what led to a prediction, by layer and position, pruned by sliders; cards, pins, groups.

import { h, put, tokenChip, tokenText } from "../kit/dom.js";
import { TOKENS, documentEnd } from "../kit/footer.js";
import { fact, masthead } from "../kit/masthead.js";
import { count, number, percent, setting, signed } from "../kit/numbers.js";
import { page } from "../kit/page.js";
import { part } from "../kit/part.js";
import { warningList } from "../kit/warnings.js";
import { read, written } from "../graph/address.js";
import { graphCanvas } from "../graph/canvas.js";
import { cards } from "../graph/card.js";
import { edgeHeads, graphOf, part as pinnedPart, shown } from "../graph/model.js";
import { pinnedView } from "../graph/pinned.js";

const STEPS = 200; // of a slider

const METHODS = {
  flow: ["Information flow routes", "Primer 3.2.28"],
  attribution: ["Attribution graph", "B.4"],
  "feature circuit": ["Feature circuit", "Primer 3.2.29"],
  feature: ["What a feature reads, one step back", "Primer 3.2.30"],
};

function sections(given) {
  const doc = { ...given, edges: { ...given.edges, heads: edgeHeads(given.edges.heads) } };
  const graph = graphOf(doc);
  const see = (text) => doc.visible[text] ?? text.replaceAll(" ", "␣");
  const tokens = doc.tokens.map(({ text }) => ({ text, visible: see(text) }));
  const begun = {
    node: doc.thresholds.node,
    edge: doc.thresholds.edge,
    pinned: new Set(doc.supernodes.length ? [...doc.supernodes.flatMap(({ nodes }) => nodes), ...graph.sinks] : []),
    groups: doc.supernodes.map(({ name, nodes }) => ({ name, nodes })),
    selected: null,
    line: null,
  };
  let state = read(location.hash.slice(1), graph.size, doc.edges.source.length, begun);
  let drawn = null;

  const card = cards(doc, graph, see, { isPinned: (i) => state.pinned.has(i), onPin: pin, onSelect: lead, isShown: (i) => Boolean(drawn?.nodes[i]) });
  const canvas = graphCanvas({
    graph,
    tokens,
    label: (i) => see(doc.nodes.text[i]),
    tip: card.tip,
    edgeTip: card.edgeTip,
    say: (i) => `${doc.nodes.name[i]} ${see(doc.nodes.text[i])}, influence ${number(doc.nodes.influence[i])}${state.pinned.has(i) ? ", pinned" : ""}`,
    onSelect: select,
    onLine: (line) => change({ selected: null, line }),
    onPin: pin,
  });
  const pins = pinnedView(doc, graph, see, {
    onSelect: lead,
    onUnpin: (nodes) => change({ pinned: new Set([...state.pinned].filter((i) => !nodes.includes(i))) }),
    onClear: () => change({ pinned: new Set(), groups: [] }),
    onGroup(nodes, name) {
      if (!nodes.length) return;
      const rest = state.groups.map((group) => ({ ...group, nodes: group.nodes.filter((i) => !nodes.includes(i)) })).filter((group) => group.nodes.length);
      change({ groups: [...rest, { name: name || `group ${rest.length + 1}`, nodes }] });
    },
    onUngroup: (at) => change({ groups: state.groups.filter((_, i) => i !== at) }),
    onRename: (at, name) => change({ groups: state.groups.map((group, i) => (i === at ? { ...group, name: name.trim() || group.name } : group)) }),
    onExport: () => download(pinnedPart(doc, state.pinned, state.groups), "pinned.json"),
  });

  function select(i) {
    change({ selected: i, line: null });
  }
  function lead(i) {
    select(i);
    canvas.lead(i);
  }
  function pin(i) {
    const pinned = new Set(state.pinned);
    if (!pinned.delete(i)) pinned.add(i);
    const groups = state.groups.map((group) => ({ ...group, nodes: group.nodes.filter((node) => pinned.has(node)) })).filter(({ nodes }) => nodes.length);
    change({ pinned, groups });
  }
  function change(next) {
    state = { ...state, ...next };
    history.replaceState(null, "", `#${written(state)}`);
    show(next);
  }
  function show(changed) {
    if (drawn === null || "node" in changed || "edge" in changed || "pinned" in changed) drawn = shown(graph, state, state.pinned);
    nodeSlider.tell(state.node, `${count(drawn.count)} of ${count(graph.size)}`);
    edgeSlider.tell(state.edge, `${count(drawn.edges.length)} of ${count(doc.edges.source.length)}`);
    canvas.draw(drawn, state, "node" in changed || "edge" in changed);
    if ("pinned" in changed || "groups" in changed) pins.show(state.pinned, state.groups);
    if (state.line === null) card.show(state.selected);
    else card.showEdge(state.line);
  }

  // a slider may speak more often than the screen is drawn
  let moving = null;
  function move(next) {
    if (moving === null)
      requestAnimationFrame(() => {
        const to = moving;
        moving = null;
        change(to);
      });
    moving = { ...moving, ...next };
  }
  const nodeSlider = slider("nodes", linear("of the influence"), (node) => move({ node }));
  const edgeSlider = slider("edges", doc.about.edge_slider === "weight" ? byWeight(doc) : linear("of the weight"), (edge) => move({ edge }));
  addEventListener("hashchange", () => {
    state = read(location.hash.slice(1), graph.size, doc.edges.source.length, begun);
    show({ node: state.node, pinned: state.pinned, groups: state.groups });
  });
  addEventListener("keydown", (event) => {
    if ((state.selected === null && state.line === null) || event.ctrlKey || event.metaKey || event.target.closest?.("input")) return;
    if (event.key === "Escape") select(null);
    if (event.key === "p" && state.selected !== null) {
      pin(state.selected);
      canvas.tell();
    }
  });
  // the canvas has a width once the page stands in the document
  queueMicrotask(() => show({ pinned: state.pinned, groups: state.groups }));

  const [named, entry] = METHODS[doc.about.method];
  return [
    masthead(doc.model.name, `${count(doc.model.n_layers)} layers × ${count(doc.model.d_model)} wide · ${doc.model.dtype}`),
    h(
      "section",
      { class: "question" },
      h("h1", {}, "What leads to ", doc.targets.length ? targets(doc, see) : "this prediction", "?"),
      h("p", { class: "lede" }, tokens.map((token) => tokenChip(token, "bare"))),
      h("p", { class: "lede" }, named, h("span", { class: "entry" }, entry), ` · ${count(graph.size)} nodes and ${count(doc.edges.source.length)} edges`),
      warningList(doc),
      doc.scores.length ? h("dl", { class: "facts three graph-scores" }, doc.scores.map(({ name, value, words }) => fact(number(value), name, words))) : null,
    ),
    part(
      "graph",
      "By layer and position",
      "Layers upwards. Sliders hide what has least part in the prediction, and with it what then leads nowhere.",
      h("div", { class: "toolbar graph-tools" }, nodeSlider.element, edgeSlider.element, key(graph, doc)),
      h("div", { class: "split graph-split" }, canvas.element, card.element),
    ),
    part("pinned", "Pinned", "A part of the graph by itself. An edge of a group is the sum of its nodes’ edges, hidden ones included.", pins.element),
    doc.interventions.length ? part("interventions", "Checked by intervention", "What the graph predicts that a change of these nodes does to the target, and what it does when the model runs.", interventions(doc)) : null,
    documentEnd({ ...doc, prompt: doc.tokens.map(({ text }) => text).join(""), provenance: { ...doc.about, ...doc.provenance } }, reading(graph)),
  ];
}

const targets = (doc, see) =>
  doc.targets.map(({ text, probability, weight }, at) => [at ? " " : "", h("span", { class: `chip ${weight < 0 ? "foil" : "target"}`, title: probability === null || probability === undefined ? null : percent(probability) }, tokenText(see(text)))]);

/** A slider's way between its own steps and a share. */
const linear = (words) => ({ share: (step) => step / STEPS, step: (share) => Math.round(share * STEPS), says: (share) => `${percent(share)} ${words}` });

function byWeight(doc) {
  const least = Math.max(1e-4, Math.min(...doc.edges.weight.map((_, e) => 1 - doc.edges.share[e])));
  const most = 0.6;
  // by factors, from the heaviest to the lightest
  return {
    share: (step) => 1 - most * (least / most) ** (step / STEPS),
    step: (share) => Math.round((STEPS * Math.log(Math.min(most, Math.max(least, 1 - share)) / most)) / Math.log(least / most)),
    says: (share) => `of weight ${setting(Number((1 - share).toPrecision(2)))} and more`,
  };
}

function slider(name, scale, onMove) {
  const input = h("input", { type: "range", min: 0, max: STEPS, "aria-label": `How many ${name} are shown`, on: { input: () => onMove(scale.share(Number(input.value))) } });
  const says = h("span", { class: "num" });
  const told = h("b", { class: "num" });
  return {
    element: h("label", { class: "slider graph-slider" }, h("span", {}, name, " ", told), input, says),
    tell(share, counted) {
      if (document.activeElement !== input) input.value = scale.step(share);
      put(told, counted);
      put(says, scale.says(share));
      input.setAttribute("aria-valuetext", `${counted} ${name}, ${scale.says(share)}`);
    },
  };
}

function key(graph, doc) {
  const mark = (kind, text) => h("span", {}, h("span", { class: `key-mark ${kind}` }), text);
  const kinds = new Set(doc.nodes.kind);
  return h(
    "div",
    { class: "edge-key" },
    graph.signed ? [mark(score(1), "supports the target"), mark(score(-1), "speaks against it")] : mark("seq", "share of what is read"),
    kinds.has("error") ? mark("diamond", "error") : null,
    kinds.has("mlp") && kinds.has("stream") ? mark("square", "MLP") : null,
  );
}
const score = (sign) => (sign < 0 ? "foil" : "target");

function interventions({ interventions: rows, nodes }) {
  const most = Math.max(...rows.flatMap(({ predicted, measured }) => [Math.abs(predicted), Math.abs(measured)]), 1e-30);
  const bar = (value, kind) =>
    h("span", { class: `bar ${kind} ${value < 0 ? "foil" : "target"}`, style: { width: `${(50 * Math.abs(value)) / most}%`, left: value < 0 ? `${50 - (50 * Math.abs(value)) / most}%` : "50%" } });
  return h(
    "div",
    { class: "scroll-x" },
    h(
      "table",
      { class: "paired graph-interventions" },
      h("thead", {}, h("tr", {}, h("th", {}, "what"), h("th", { class: "num" }, "times"), h("th", {}, "predicted above measured"), h("th", { class: "num" }, "predicted"), h("th", { class: "num" }, "measured"))),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            h("th", { title: row.nodes.map((i) => nodes.name[i]).join(", ") }, row.name),
            h("td", { class: "num" }, setting(row.factor).replace("-", "−")),
            h("td", { class: "pair" }, h("span", { class: "pair-track" }, h("span", { class: "zero", style: { left: "50%" } }), bar(row.predicted, "claimed"), bar(row.measured, "measured"))),
            h("td", { class: "num" }, signed(row.predicted)),
            h("td", { class: "num" }, signed(row.measured)),
          ),
        ),
      ),
    ),
  );
}

function download(data, name) {
  const address = URL.createObjectURL(new Blob([JSON.stringify(data)], { type: "application/json" }));
  const link = h("a", { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

const reading = (graph) => [
  TOKENS,
  ["Influence", "How much of the targets’ weight passes through a node. The slider for nodes keeps the most influential until that part of all influence is held."],
  graph.signed
    ? ["Colors", "An edge is orange where, followed to the end, it supports the target, and blue where it speaks against it or for the foil. Gray, in diamonds, is what the replacement leaves unexplained."]
    : ["Weights", "How much nearer a write brings the sum that it goes into: shares without a sign, so they say nothing for or against the target. Words are the logit lens’ reading of the stream, or of what an MLP writes."],
  ["Link", "The address holds thresholds, pins, groups and the chosen node or edge: copy it to show what you see."],
];

page(sections);
