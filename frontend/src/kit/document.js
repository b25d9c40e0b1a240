// The document that a page carries, if any: as JSON, or gzipped where it is long, with columns of numbers as arrays.

import { withColumns } from "./columns.js";
import { h } from "./dom.js";
import { gunzip } from "./gzip.js";

export async function pageDocument() {
  const element = document.getElementById("document");
  if (element === null) return null;
  return withColumns(element.type === "application/gzip" ? await gunzip(element.textContent).json() : JSON.parse(element.textContent));
}

/** The document that `main` is drawn from; null where it is not there whole, which the page then says. */
export async function documentFor(main) {
  const doc = await pageDocument().catch(() => null);
  if (doc === null) {
    const words = "This page has lost its data, or this browser cannot unzip it: write the page again, save the file whole, or open it in a newer browser.";
    main.append(h("p", { class: "page warn", role: "alert" }, words));
    document.documentElement.dataset.ready = "";
  }
  return doc;
}
