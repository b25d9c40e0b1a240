// A page's contents: a line of links to its sections, where there are enough of them to get lost in.

import { recall, remember, slug } from "./address.js";
import { h } from "./dom.js";

const FEWEST = 3;

/** Puts the list under the page's question, and goes to the section that the address names. */
export function contents(main) {
  const used = new Set([...main.querySelectorAll("[id]")].map(({ id }) => id));
  const heads = [...main.querySelectorAll("h2")].map((head) => {
    const section = head.closest("section[id]");
    if (section) return [section.id, head];
    if (!head.id) head.id = unused(slug(head.textContent) || "section", used);
    return [head.id, head];
  });
  if (heads.length >= FEWEST) {
    const links = heads.map(([id, head]) =>
      h("li", {}, h("a", { href: `#at=${encodeURIComponent(id)}`, on: { click: (event) => go(event, id) } }, head.textContent)),
    );
    const list = h("nav", { class: "contents", "aria-label": "Contents" }, h("ol", {}, links));
    const question = main.querySelector(".question") ?? main.querySelector(".lead") ?? main.querySelector("h1");
    question?.after(list);
  }
  const at = recall("at");
  if (at !== null) document.getElementById(at)?.scrollIntoView();
}

function go(event, id) {
  event.preventDefault();
  remember("at", id);
  document.getElementById(id).scrollIntoView();
}

function unused(id, used) {
  let name = id;
  for (let i = 2; used.has(name); i++) name = `${id}-${i}`;
  used.add(name);
  return name;
}
