// A page is a list of sections, drawn from the document that the page carries.

import { h } from "./dom.js";
import { mountTooltip } from "./tooltip.js";

/** Draw the page: `sections` gives elements for a document, or nothing in the place of one that it has no data for. */
export function page(sections) {
  const doc = JSON.parse(document.getElementById("document").textContent);
  mountTooltip();
  document.getElementById("page").append(h("div", { class: "page" }, sections(doc).filter(Boolean)));
}
