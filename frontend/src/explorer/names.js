// A field for the name of a dictionary or a direction: a list where the page has all names, else one that is asked for
// while somebody types.

import { h, put } from "../kit/dom.js";

const PAUSE = 180; // milliseconds after a keystroke

/** `kind` is "dictionaries" or "directions", `held` the names that came with the page and how many there are. */
export function nameField({ kind, held, label, value, onChange }) {
  const { names, count } = held;
  if (names.length === count) {
    const select = h("select", { "aria-label": label, on: { change: () => onChange?.(select.value) } }, names.map((name) => h("option", { value: name }, name)));
    select.value = value || names[0] || "";
    return select;
  }
  const list = h("datalist", { id: `names-${kind}-${label}` }, options(names));
  let timer = 0;
  let asked = null;
  const input = h("input", {
    list: list.id,
    value: value || names[0],
    "aria-label": label,
    title: `one of ${count}: type a part of its name`,
    spellcheck: "false",
    autocomplete: "off",
    required: true,
    on: {
      change: () => onChange?.(input.value),
      input: () => {
        clearTimeout(timer);
        timer = setTimeout(look, PAUSE);
      },
    },
  });
  async function look() {
    asked?.abort();
    asked = new AbortController();
    try {
      const response = await fetch(`/api/shelf/${kind}?contains=${encodeURIComponent(input.value)}`, { signal: asked.signal });
      if (response.ok) put(list, options((await response.json()).names));
    } catch (error) {
      if (error.name !== "AbortError") put(list); // the server is away: what is typed is asked for all the same
    }
  }
  const room = h("span", { class: "name-field" }, input, list);
  Object.defineProperty(room, "value", { get: () => input.value });
  return room;
}

const options = (names) => names.map((name) => h("option", { value: name }));

/** Whether a name that a link gives is none of those here; where not all are known, the server says. */
export const notHere = ({ names, count }, name) => names.length === count && name !== "" && !names.includes(name);
