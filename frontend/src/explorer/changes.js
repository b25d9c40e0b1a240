// The parts of the model that are turned up or down, a slider each: 0 takes a part away, 1 leaves it as it is. Of a
// direction the strength is set, and 0 leaves the model as it is.

import { h, put } from "../kit/dom.js";
import { setting } from "../kit/numbers.js";
import { nameField } from "./names.js";
import { changeName } from "./state.js";

const traced = ["head", "neuron", "feature"];

const NUMBERS = { head: ["layer", "head"], mlp: ["layer"], attention: ["layer"], neuron: ["layer", "unit"], feature: ["unit"], direction: [] };

export function changesView({ model, shelf, onChange, onTrace }) {
  const list = h("ul", { class: "changes" });
  const shelves = {
    feature: nameField({ kind: "dictionaries", held: shelf.dictionaries, label: "dictionary" }),
    direction: nameField({ kind: "directions", held: shelf.directions, label: "direction" }),
  };
  const count = { feature: shelf.dictionaries.count, direction: shelf.directions.count };
  const parts = Object.keys(NUMBERS).filter((name) => !(name in shelves) || count[name]);
  const part = h(
    "select",
    { "aria-label": "part", on: { change: () => enable() } },
    parts.map((name) => h("option", { value: name }, name)),
  );
  const named = h("span", { class: "named" });
  const layer = numeric("layer", model.n_layers - 1);
  const inner = numeric("number", null);
  const add = h("button", { type: "submit" });
  const form = h(
    "form",
    {
      class: "new-change",
      on: {
        submit: (event) => {
          event.preventDefault();
          const numbers = NUMBERS[part.value];
          const change = { part: part.value };
          if (part.value === "feature") change.dictionary = shelves.feature.value;
          if (part.value === "direction") change.direction = shelves.direction.value;
          if (numbers.includes("layer")) change.layer = Number(layer.value);
          const second = numbers.find((name) => name !== "layer");
          if (second) change[second] = Number(inner.value);
          onChange((changes) => [...without(changes, change), begun(change)]);
        },
      },
    },
    part,
    named,
    layer,
    inner,
    add,
  );

  function enable() {
    const numbers = NUMBERS[part.value];
    const second = numbers.find((name) => name !== "layer");
    put(named, shelves[part.value] ?? []);
    named.hidden = !shelves[part.value];
    layer.hidden = !numbers.includes("layer");
    inner.hidden = !second;
    inner.max = second === "head" ? model.n_heads - 1 : "";
    inner.setAttribute("aria-label", second ?? "");
    inner.title = second ?? "";
    put(add, part.value === "direction" ? "add" : "take away");
  }
  enable();

  return {
    element: h("div", {}, h("h3", {}, "Turn parts up or down"), form, list),
    draw(changes) {
      put(
        list,
        changes.map((change) => {
          const name = changeName(change);
          const key = change.part === "direction" ? "strength" : "factor";
          const told = () => (key === "factor" ? `× ${setting(change.factor)}` : `${change.strength < 0 ? "" : "+"}${setting(change.strength)}`);
          const value = h("output", {}, told());
          const slider = h("input", {
            type: "range",
            min: key === "factor" ? -1 : -3,
            max: 3,
            step: 0.1,
            value: change[key],
            "aria-label": `${key} of ${name}`,
            on: {
              input: () => {
                change[key] = Number(slider.value);
                put(value, told());
                onChange((all) => all, { redraw: false });
              },
            },
          });
          const remove = h(
            "button",
            { title: `leave ${name} as it is`, "aria-label": `leave ${name} as it is`, on: { click: () => onChange((all) => all.filter((other) => other !== change)) } },
            "×",
          );
          const trace = traced.includes(change.part)
            ? h("button", { title: `what drives ${name}?`, "aria-label": `why? what drives ${name}`, on: { click: () => onTrace(change) } }, "why?")
            : h("span", {});
          return h("li", {}, h("b", { class: "mono", title: name }, name), slider, value, trace, remove);
        }),
      );
    },
  };
}

const numeric = (label, most) =>
  h("input", { type: "number", min: 0, max: most, value: 0, required: true, "aria-label": label, title: label });

/** A change as it begins: a part taken away, a direction added once. */
export const begun = (change) => (change.part === "direction" ? { ...change, strength: 1 } : { ...change, factor: 0 });

/** The changes without one of the same part. */
export const without = (changes, change) => changes.filter((other) => changeName(other) !== changeName(change));
