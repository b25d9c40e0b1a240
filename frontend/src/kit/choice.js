// A row of buttons of which one is on. They are radio buttons underneath, so the arrow keys move the choice.
// What a reader chooses is in the page's address, by the group's legend and the button's number.

import { recall, remember, slug } from "./address.js";
import { h } from "./dom.js";

const groups = new Map();

/** `options`: [{value, label (nodes), hint}]. Returns {element, choose(value)}; `onChoose` runs for the first one too. */
export function choice(legend, options, onChoose, kind = "") {
  const count = (groups.get(legend) ?? 0) + 1;
  groups.set(legend, count);
  const name = count > 1 ? `${slug(legend)}-${count}` : slug(legend);
  const at = Number(recall(name));
  const first = at in options ? at : 0;
  const inputs = new Map();
  const chosen = (value, index) => {
    remember(name, index === 0 ? null : String(index));
    onChoose(value);
  };
  const items = options.map(({ value, label, hint }, index) => {
    const input = h("input", {
      type: "radio",
      name,
      checked: index === first,
      on: { change: () => chosen(value, index) },
    });
    inputs.set(value, [input, index]);
    return h("label", { title: hint }, input, h("span", {}, label));
  });
  const element = h("fieldset", { class: `choice ${kind}` }, h("legend", { class: "unseen" }, legend), items);
  if (options.length) onChoose(options[first].value);
  return {
    element,
    choose(value) {
      if (!inputs.has(value)) return false;
      const [input, index] = inputs.get(value);
      input.checked = true;
      chosen(value, index);
      return true;
    },
  };
}
