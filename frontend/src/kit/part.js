// A section of the page: what it asks, one paragraph on how it is answered, and its figures.

import { h } from "./dom.js";

export const part = (id, title, lede, ...figures) =>
  h(
    "section",
    { class: "part", id, "aria-labelledby": `${id}-title` },
    h("div", { class: "part-head" }, h("h2", { id: `${id}-title` }, title), h("p", { class: "lede" }, lede)),
    figures,
  );

/** A titled figure within a section, with a note below its title. */
export const figure = (title, note, ...body) =>
  h(
    "figure",
    {},
    h("figcaption", {}, h("h3", {}, title), note ? h("p", { class: "note" }, note) : null),
    body,
  );
