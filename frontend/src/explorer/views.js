// The answers that are drawn in the page: for each question its form, what chooses within it, and how it is drawn. Any
// other answer is a page of its own, in a frame.

import { h, put, tokenChip } from "../kit/dom.js";
import { patchingView } from "../sections/patching.js";
import { attentionView } from "./attention.js";
import { effectsView } from "./effects.js";
import { featuresView } from "./features.js";
import { contrast } from "./state.js";
import { tableControls, tableView } from "./table.js";

/** `now()` is the state; `again(part)` sets a part of it and asks anew; `onPick(part)` takes a part away. */
export function viewsOf({ model, shelf, now, again, onPick, edited }) {
  const chooser = (label, name, options, start) => {
    const select = h("select", { "aria-label": label, on: { change: () => again({ [name]: select.value }) } }, options.map(([value, text]) => h("option", { value }, text)));
    select.value = now()[name] || start;
    return { select, element: h("label", { class: "chooser" }, h("span", {}, label), select) };
  };
  const layers = Array.from({ length: model.n_layers }, (_, i) => [String(i), `layer ${i}`]);
  const layer = chooser("Layer", "layer", layers, "0");
  const names = Object.keys(shelf.dictionaries ?? {});
  const dictionary = chooser("Dictionary", "dictionary", names.map((name) => [name, name]), names[0] ?? "");
  const table = tableControls({ tasks: shelf.tasks ?? [], task: now().task, seed: now().seed, onOpen: (task, seed) => again({ task, seed }) });
  const withCounterfactual = (state) => ({ ...contrast(state), ...(state.corrupt ? { corrupt: state.corrupt } : {}) });
  const underChanges = ({ prompt, changes }) => ({ prompt, changes });

  return {
    effects: { form: withCounterfactual, draw: (doc) => effectsView(doc, { onPick }) },
    story: { form: withCounterfactual },
    patching: {
      form: withCounterfactual,
      lacks: (state) => (state.corrupt ? "" : "Give a counterfactual above: the same text of as many tokens, with another answer."),
      draw: (doc) => [
        h("p", { class: "note" }, "For ", tokenChip(doc.target, "target"), " over ", tokenChip(doc.foil, "foil"), ", in the model as it is: changes are not made."),
        patchingView(doc),
      ],
    },
    attention: {
      live: true,
      controls: layer.element,
      form: (state) => ({ ...underChanges(state), layer: Number(layer.select.value) }),
      draw: (doc) => attentionView(doc, { head: Number(now().head) || 0, onHead: (head) => edited({ head: String(head || "") }, { ask: false }) }),
    },
    features: {
      live: true,
      controls: names.length > 1 ? dictionary.element : null,
      form: (state) => ({ ...underChanges(state), dictionary: dictionary.select.value }),
      draw: (doc) => featuresView(doc, { onPick }),
    },
    table: {
      live: true,
      alone: true,
      controls: table.element,
      lacks: () => (table.ready() ? "" : "Paste lines of JSON, choose a file, or drop one on the field."),
      form: ({ changes }) => ({ ...table.form(), changes }),
      draw: (doc) => tableView(doc, { onRow: ({ prompt, target, foil, corrupt }) => edited({ prompt, target, foil, corrupt }) }),
    },
  };
}

/** An answer that is a page: in a frame, and by itself. */
export const framed = (job, title) => {
  const address = `/api/jobs/${job}/page`;
  return [
    h("p", { class: "note" }, h("a", { href: address, target: "_blank", rel: "noopener" }, "Open this page by itself"), " to save or share it."),
    h("iframe", { src: address, title, sandbox: "allow-scripts allow-downloads" }),
  ];
};

/** Shows only the controls of one question. */
export const controlsOf = (room, view) => put(room, view?.controls ?? null);
