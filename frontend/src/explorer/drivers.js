// What drives one unit at one place: the writers of what a feature or a neuron reads, or the pairs behind a head's look.
// Orange brings it up, blue brings it down.

import { h, put, tokenChip } from "../kit/dom.js";
import { percent, signed } from "../kit/numbers.js";
import { nameField, notHere } from "./names.js";
import { changeName, noName, noNumber } from "./state.js";

const WHOLE = "heads and MLPs";
const NUMBERS = { head: ["layer", "head"], neuron: ["layer", "unit"], feature: ["dictionary", "unit"] };

/** A unit as the address has it, and back: `head 2 3`, `neuron 3 17`, `feature words 12`. */
export const unitText = (part) => [part.part, ...NUMBERS[part.part].map((name) => part[name])].join(" ");

export function unitOf(text) {
  const match = /^(head|neuron) (\d{1,9}) (\d{1,9})$|^(feature) (.+) (\d{1,9})$/.exec(text);
  if (!match) return null;
  const [, part, layer, second, feature, dictionary, unit] = match;
  if (feature) return { part: feature, dictionary, unit: Number(unit) };
  return { part, layer: Number(layer), [NUMBERS[part][1]]: Number(second) };
}

/** The fields that choose a unit and a place; `again(part)` asks anew. */
export function driversControls({ model, dictionaries, now, again }) {
  const room = h("div", { class: "new-change drivers-form" });
  const position = (name, label, hint) => h("input", { type: "number", min: 0, value: now()[name], placeholder: hint, "aria-label": label, title: label });
  function draw() {
    const chosen = unitOf(now().unit) ?? { part: "head", layer: 0, head: 0 };
    const parts = Object.keys(NUMBERS).filter((name) => name !== "feature" || dictionaries.count);
    const part = h("select", { "aria-label": "kind of unit", on: { change: () => fields(part.value) } }, parts.map((name) => h("option", { value: name }, name)));
    part.value = parts.includes(chosen.part) ? chosen.part : "head";
    const own = h("span", { class: "unit-fields" });
    let read = () => null;
    function fields(kind) {
      const of = kind === chosen.part ? chosen : {};
      const numeric = (name, most) => h("input", { type: "number", min: 0, max: most, required: true, value: of[name] ?? 0, "aria-label": `the unit's ${name}`, title: name });
      const first = kind === "feature" ? nameField({ kind: "dictionaries", held: dictionaries, label: "the unit's dictionary", value: of.dictionary }) : numeric("layer", model.n_layers - 1);
      const second = NUMBERS[kind][1];
      const number = numeric(second, second === "head" ? model.n_heads - 1 : null);
      const key = kind === "head" ? position("key", "the position that it looks at", "key") : null;
      read = () => ({
        unit: `${kind} ${first.value} ${number.value}`,
        key: key?.value ?? "",
      });
      put(own, first, number, key);
    }
    fields(part.value);
    const at = position("pos", "the position", "last");
    const writers = h("select", {}, h("option", { value: "" }, "features"), h("option", { value: WHOLE }, "heads and MLPs"));
    writers.value = now().writers === WHOLE ? WHOLE : "";
    const form = h(
      "form",
      { class: "new-change", on: { submit: (event) => { event.preventDefault(); again({ ...read(), pos: at.value, writers: writers.value }); } } },
      part,
      own,
      h("label", { class: "chooser" }, h("span", {}, "at"), at),
      dictionaries.count ? h("label", { class: "chooser" }, h("span", {}, "writers are"), writers) : null,
      h("button", { type: "submit" }, "trace"),
    );
    put(room, form);
  }
  draw();
  return { element: room, draw };
}

/** What is wrong with the unit that a link names, in words. */
export function noUnit({ model, dictionaries }, { unit, pos, key, writers }) {
  const whole = noName("kind of writers", writers, [WHOLE]) || noNumber("position", pos, 1e9) || noNumber("position", key, 1e9);
  if (unit === "") return whole || "Choose a head, a neuron or a feature.";
  const part = unitOf(unit);
  if (!part) return `There is no unit “${unit.slice(0, 60)}” here: choose another.`;
  if (part.part === "feature") return notHere(dictionaries, part.dictionary) ? noName("dictionary", part.dictionary, dictionaries.names) : whole;
  return noNumber("layer", String(part.layer), model.n_layers) || (part.part === "head" ? noNumber("head", String(part.head), model.n_heads) : "") || whole;
}

/** The form of the question. */
export const driversForm = ({ prompt, unit, pos, key, writers }) => {
  const part = unitOf(unit);
  const places = part.part === "head" && key !== "" ? { looked_at: Number(key) } : {};
  return { prompt, ...part, ...places, ...(pos === "" ? {} : { pos: Number(pos) }), ...(writers === WHOLE ? { features: false } : {}) };
};

export function driversView(doc, { unit, onPlace }) {
  const { tokens, rows, of, pos, value, rest } = doc;
  const part = unitOf(unit);
  const name = part ? changeName(part) : doc.unit;
  const most = Math.max(1e-9, ...rows.map(({ weight }) => Math.abs(weight)));
  const head = of.kind === "head";
  const place = (at) => h("button", { class: "pick", title: `trace ${name} at token ${at}`, on: { click: () => onPlace(at) } }, tokenChip(tokens[at]), ` ${at}`);
  const writer = ({ name: text, pos: at }) => [
    h("span", { class: "mono" }, text === null ? "biases" : text === "embed" ? "the token" : text),
    ...(at === null ? [] : [" at ", place(at)]),
  ];
  const row = (one) =>
    h(
      "tr",
      {},
      one.writers.map((each) => h("td", {}, writer(each))),
      head ? null : h("td", { class: "mono" }, one.through || "directly"),
      h("td", { class: `num ${one.weight > 0 ? "target" : "foil"}` }, signed(one.weight)),
      h(
        "td",
        { class: "signed-track", "aria-hidden": "true" },
        h("span", { class: `bar ${one.weight > 0 ? "target" : "foil"}`, style: { width: `${(50 * Math.abs(one.weight)) / most}%`, left: one.weight > 0 ? "50%" : `${50 - (50 * Math.abs(one.weight)) / most}%` } }),
      ),
    );
  const columns = head ? ["at the query", "at the key"] : ["written by", "read through"];
  const what = {
    head: `its score for the key, before the softmax, is ${signed(value)}; ${percent(of.pattern ?? 0)} of its attention is there. Each pair of writers is one part of the score.`,
    neuron: `its activation function takes ${signed(value)}. Each row is what one writer brought of it, by one way.`,
    feature: `it is active by ${signed(value)}. Each row is what one writer brought of it, by one way.`,
  }[of.kind];
  return h(
    "figure",
    {},
    h(
      "figcaption",
      {},
      h("h3", {}, head ? `Why ${name} looks from ` : `What drives ${name} at `, tokenChip(tokens[pos]), ` ${pos}`, ...(head ? [" to ", tokenChip(tokens[of.key]), ` ${of.key}`] : [])),
      h("p", { class: "note" }, `In the model as it is, ${what} Orange brings it up, blue brings it down.`),
    ),
    h(
      "div",
      { class: "table-room", tabindex: 0, role: "region", "aria-label": `what drives ${name}` },
      h(
        "table",
        { class: "prompts drivers" },
        h("thead", {}, h("tr", {}, columns.map((text) => h("th", { scope: "col" }, text)), h("th", { scope: "col" }, "part"), h("th", { scope: "col", "aria-hidden": "true" }))),
        h("tbody", {}, rows.map(row)),
      ),
    ),
    h("p", { class: "note" }, `${rows.length} largest of all parts; the others sum to ${signed(rest)}. Attention and norms' denominators are held as they are on this prompt.`),
  );
}
