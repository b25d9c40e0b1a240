// A row of buttons of which one is on. They are radio buttons underneath, so the arrow keys move the choice.

import { h } from "./dom.js";

let groups = 0;

/** `options`: [{value, label (nodes), hint}]. Returns {element, choose(value)}; `onChoose` runs for the first one too. */
export function choice(legend, options, onChoose, kind = "") {
  const name = `choice-${++groups}`;
  const inputs = new Map();
  const items = options.map(({ value, label, hint }, index) => {
    const input = h("input", {
      type: "radio",
      name,
      checked: index === 0,
      on: { change: () => onChoose(value) },
    });
    inputs.set(value, input);
    return h("label", { title: hint }, input, h("span", {}, label));
  });
  const element = h("fieldset", { class: `choice ${kind}` }, h("legend", { class: "unseen" }, legend), items);
  if (options.length) onChoose(options[0].value);
  return {
    element,
    choose(value) {
      const input = inputs.get(value);
      if (!input) return false;
      input.checked = true;
      onChoose(value);
      return true;
    },
  };
}
