// The answers that are drawn in the page: for each question its form, what chooses within it, and how it is drawn. The
// graph is a page of its own, in a frame.

import { h, put, tokenChip } from "../kit/dom.js";
import { attributionParts, withMethods } from "../sections/attributed.js";
import { patchingView } from "../sections/patching.js";
import { storyView } from "../sections/story.js";
import { attentionView } from "./attention.js";
import { effectsView } from "./effects.js";
import { featuresView } from "./features.js";
import { driversControls, driversForm, driversView, noUnit, unitOf } from "./drivers.js";
import { nameField, notHere } from "./names.js";
import { contrast, noName, noNumber } from "./state.js";
import { tableControls, tableView } from "./table.js";

const NODES = ["50", "200", "1000"];
const METHODS = ["occlusion", "attn_lrp", "gradient_x_input"];

/** `now()` is the state; `again(part)` sets a part of it and asks anew; `onPick(part)` takes a part away. */
export function viewsOf({ model, shelf, now, again, onPick, onTrace, edited }) {
  const chooser = (label, name, options, start) => {
    const select = h("select", { "aria-label": label, on: { change: () => again({ [name]: select.value }) } }, options.map(([value, text]) => h("option", { value }, text)));
    select.value = now()[name] || start;
    return h("label", { class: "chooser" }, h("span", {}, label), select);
  };
  const same = (names) => names.map((name) => [name, name]);
  const layers = Array.from({ length: model.n_layers }, (_, i) => [String(i), `layer ${i}`]);
  const { dictionaries } = shelf;
  const units = ["neurons", ...(shelf.transcoders ? ["features"] : [])];
  const drivers = driversControls({ model, dictionaries, now, again });
  const table = tableControls({ tasks: shelf.tasks ?? [], now, onOpen: again });
  const methods = methodsChooser(shelf.methods ?? METHODS, now, again);
  const withCounterfactual = (state) => ({ ...contrast(state), ...(state.corrupt ? { corrupt: state.corrupt } : {}) });
  const underChanges = ({ prompt, changes }) => ({ prompt, changes });
  const asItIs = (doc) =>
    h("p", { class: "note" }, "For ", tokenChip(doc.target, "target"), ...(doc.foil ? [" over ", tokenChip(doc.foil, "foil")] : []), ", in the model as it is: changes are not made.");

  return {
    effects: { form: withCounterfactual, draw: (doc) => effectsView(doc, { onPick }) },
    story: {
      onPage: true,
      controls: chooser("Depth", "depth", same(shelf.depths ?? ["quick"]), "quick"),
      lacks: ({ depth }) => noName("depth", depth, shelf.depths ?? ["quick"]),
      form: (state) => ({ ...withCounterfactual(state), depth: state.depth || "quick" }),
      draw: (doc, job) => [asItIs(doc), wholePage(job), storyView(doc), partsOf(doc.story, onPick)],
    },
    inputs: {
      onPage: true,
      controls: methods,
      lacks: ({ methods: said }) => said.split(",").map((name) => noName("method", name, shelf.methods ?? METHODS)).find(Boolean) ?? "",
      form: (state) => ({ ...contrast(state), methods: state.methods ? state.methods.split(",") : METHODS }),
      draw: (doc, job) => [asItIs(doc), wholePage(job), attributionParts(withMethods(doc))],
    },
    graph: {
      controls: [units.length > 1 ? chooser("Units", "units", same(units), "neurons") : null, chooser("Units at most", "nodes", same(NODES), "200")],
      lacks: ({ units: said, nodes }) => noName("kind of units", said, units) || noName("number of units", nodes, NODES),
      form: (state) => ({ ...contrast(state), max_nodes: Number(state.nodes || 200), units: state.units === "features" ? "transcoders" : "neurons" }),
    },
    patching: {
      form: withCounterfactual,
      lacks: (state) => (state.corrupt ? "" : "Give a counterfactual above: the same text of as many tokens, with another answer."),
      draw: (doc) => [asItIs(doc), patchingView(doc)],
    },
    attention: {
      live: true,
      controls: chooser("Layer", "layer", layers, "0"),
      lacks: ({ layer }) => noNumber("layer", layer, model.n_layers),
      form: (state) => ({ ...underChanges(state), layer: Number(state.layer || 0) }),
      draw: (doc) => attentionView(doc, { head: now().head, onHead: (head) => edited({ head: String(head) }, { ask: false }), onPick, onTrace }),
    },
    features: {
      live: true,
      controls:
        dictionaries.count > 1 || now().dictionary
          ? h("label", { class: "chooser" }, h("span", {}, "Dictionary"), nameField({ kind: "dictionaries", held: dictionaries, label: "Dictionary", value: now().dictionary, onChange: (dictionary) => again({ dictionary }) }))
          : null,
      lacks: ({ dictionary }) => (notHere(dictionaries, dictionary) ? noName("dictionary", dictionary, dictionaries.names) : ""),
      form: (state) => ({ ...underChanges(state), dictionary: state.dictionary || dictionaries.names[0] }),
      draw: (doc) => featuresView(doc, { onPick, onTrace }),
    },
    drivers: {
      controls: drivers.element,
      begin: drivers.draw,
      lacks: (state) => noUnit({ model, dictionaries }, state),
      form: driversForm,
      draw: (doc) => driversView(doc, { unit: now().unit, onPlace: (pos) => onTrace(unitOf(now().unit), pos) }),
    },
    table: {
      live: true,
      alone: true,
      controls: table.element,
      lacks: table.lacks,
      form: ({ changes }) => ({ ...table.form(), changes }),
      draw: (doc) => tableView(doc, {
        now: now(),
        onLook: (part, { again: anew = false } = {}) => (anew ? again(part) : edited(part, { ask: false })),
        onRow: ({ prompt, target, foil, corrupt }) => edited({ prompt, target, foil, corrupt }),
      }),
    },
  };
}

function methodsChooser(all, now, again) {
  const chosen = now().methods ? now().methods.split(",") : METHODS;
  const boxes = all.map((value) => h("input", { type: "checkbox", value, checked: chosen.includes(value) }));
  function apply() {
    if (!boxes.some((box) => box.checked)) for (const box of boxes) box.checked = METHODS.includes(box.value);
    again({ methods: boxes.filter((box) => box.checked).map((box) => box.value).join(",") });
  }
  return h(
    "details",
    { class: "methods" },
    h("summary", {}, "Choose methods"),
    h("form", { on: { submit: (event) => { event.preventDefault(); apply(); } } }, boxes.map((box) => h("label", {}, box, box.value)), h("button", { type: "submit" }, "ask these")),
  );
}

/** The parts of a story, each to be taken away. */
function partsOf(story, onPick) {
  if (!story?.parts.length) return null;
  const buttons = story.parts.map(({ name, layer, head }) =>
    h("button", { class: "mono", on: { click: () => onPick(head === null ? { part: "mlp", layer } : { part: "head", layer, head }) } }, name),
  );
  return h("div", { class: "table-line take-away" }, h("span", { class: "note" }, "Take a part of the story away:"), buttons);
}

const wholePage = (job) =>
  h("p", { class: "note" }, h("a", { href: `/api/jobs/${job}/page`, target: "_blank", rel: "noopener" }, "Open the whole page"), " to read more, save or share it.");

/** An answer that is a page: in a frame, and by itself. */
export const framed = (job, title) => [wholePage(job), h("iframe", { src: `/api/jobs/${job}/page`, title, sandbox: "allow-scripts allow-downloads" })];

/** Shows only the controls of one question. */
export const controlsOf = (room, view) => put(room, view?.controls ?? null);
