// A token cloud: words as large as their values, in the colour of their sign, in the order of the values.

import { h } from "./dom.js";
import { fontSize } from "./cloud_scale.js";
import { count, exact, signed } from "./numbers.js";
import { diverging } from "./theme.js";
import { tipTable } from "./tooltip.js";
import { tokenFlow } from "./token_flow.js";

/** entries: [{value, id and visible, or unit}]; `most` is the value that has full size; `name` says which end of what. */
export function cloud(entries, most, name, unit) {
  const words = entries.map((entry) => entry.visible ?? `#${entry.unit}`);
  const flow = tokenFlow(
    words.map((visible) => ({ text: visible, visible })),
    {
      label: `${name}, each with its value`,
      tip: (i) => {
        const { value, id } = entries[i];
        const more = id === undefined ? [] : [["token id", count(id)]];
        return tipTable(
          id === undefined ? `${unit} ${entries[i].unit}` : h("span", { class: "chip" }, words[i]),
          [["value", exact(value)], ...more],
        );
      },
      say: (i) => `${words[i]}, ${signed(entries[i].value)}`,
    },
  );
  const colours = (i) => diverging(entries[i].value / most);
  flow.colour(colours);
  flow.enlarge((i) => fontSize(entries[i].value / most));
  const ends = [entries[0], entries.at(-1)].map(({ value }) => signed(value));
  return h(
    "div",
    { class: "cloud" },
    h(
      "p",
      { class: "cloud-name" },
      h("b", {}, name),
      h("span", { class: "num" }, entries.length > 1 ? `${ends[0]} to ${ends[1]}` : ends[0]),
    ),
    flow.element,
  );
}
