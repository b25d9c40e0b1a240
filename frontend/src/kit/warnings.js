// What the work behind a document warned of, where there is anything.

import { h } from "./dom.js";

export const warningList = ({ warnings = [] }) =>
  warnings.length ? h("div", { role: "note" }, h("ul", { class: "warnings" }, warnings.map((text) => h("li", {}, text)))) : null;
