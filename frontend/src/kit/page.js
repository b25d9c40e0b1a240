// A page is a list of sections, drawn from the document that the page carries.

import { h } from "./dom.js";
import { documentFor } from "./document.js";
import { furnish } from "./furnish.js";
import { mountTooltip } from "./tooltip.js";

/** Draw the page: `sections` gives elements for a document, or nothing in the place of one that it has no data for. */
export async function page(sections) {
  const main = document.getElementById("page");
  const doc = await documentFor(main);
  if (doc === null) return;
  mountTooltip();
  main.append(h("div", { class: "page" }, sections(doc).filter(Boolean)));
  furnish(main, doc);
}
