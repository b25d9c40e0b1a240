// The document that a page carries, if any: as JSON, or gzipped where it is long.

import { gunzip } from "./gzip.js";

export async function pageDocument() {
  const element = document.getElementById("document");
  if (element === null) return null;
  return element.type === "application/gzip" ? gunzip(element.textContent).json() : JSON.parse(element.textContent);
}
