// The parts of the model that are turned up or down, a slider each: 0 takes a part away, 1 leaves it as it is.

import { h, put } from "../kit/dom.js";
import { setting } from "../kit/numbers.js";
import { changeName } from "./state.js";

const PARTS = { head: ["layer", "head"], mlp: ["layer"], attention: ["layer"], neuron: ["layer", "unit"] };

export function changesView({ model, onChange }) {
  const list = h("ul", { class: "changes" });
  const part = h(
    "select",
    { "aria-label": "part", on: { change: () => enable() } },
    Object.keys(PARTS).map((name) => h("option", { value: name }, name)),
  );
  const layer = numeric("layer", model.n_layers - 1);
  const inner = numeric("number", null);
  const form = h(
    "form",
    {
      class: "new-change",
      on: {
        submit: (event) => {
          event.preventDefault();
          const [, second] = PARTS[part.value];
          const change = { part: part.value, layer: Number(layer.value), factor: 0 };
          if (second) change[second] = Number(inner.value);
          onChange((changes) => [...without(changes, change), change]);
        },
      },
    },
    part,
    layer,
    inner,
    h("button", { type: "submit" }, "take away"),
  );

  function enable() {
    const second = PARTS[part.value][1];
    inner.hidden = !second;
    inner.max = second === "head" ? model.n_heads - 1 : "";
    inner.setAttribute("aria-label", second ?? "");
    inner.title = second ?? "";
  }
  enable();

  return {
    element: h("div", {}, h("h3", {}, "Turn parts up or down"), form, list),
    draw(changes) {
      put(
        list,
        changes.map((change) => {
          const name = changeName(change);
          const value = h("output", {}, `× ${setting(change.factor)}`);
          const slider = h("input", {
            type: "range",
            min: -1,
            max: 3,
            step: 0.1,
            value: change.factor,
            "aria-label": `factor of ${name}`,
            on: {
              input: () => {
                change.factor = Number(slider.value);
                put(value, `× ${setting(change.factor)}`);
                onChange((all) => all, { redraw: false });
              },
            },
          });
          const remove = h(
            "button",
            { title: `leave ${name} as it is`, "aria-label": `leave ${name} as it is`, on: { click: () => onChange((all) => all.filter((other) => other !== change)) } },
            "×",
          );
          return h("li", {}, h("b", { class: "mono" }, name), slider, value, remove);
        }),
      );
    },
  };
}

const numeric = (label, most) =>
  h("input", { type: "number", min: 0, max: most, value: 0, required: true, "aria-label": label, title: label });

/** The changes without one of the same part. */
export const without = (changes, change) => changes.filter((other) => changeName(other) !== changeName(change));
