// Where the numbers come from, how to read them, and the prompt as it was given.

import { h } from "./dom.js";

/** How the text of tokens is written, on every page. */
export const TOKENS = [
  "Tokens",
  "␣ is a space, ↵ a newline, ⇥ a tab, ∅ no text; characters that draw nothing are written as escapes.",
];

// Half a surrogate pair is no character, and some programs that save or print a page end at one.
const wellFormed = (text) => text.replace(/\p{Surrogate}/gu, "\ufffd");

/** The end of a page: how to read it, where its numbers come from, and the prompt as it was given, if it has one. */
export function documentEnd(doc, reading) {
  return h(
    "footer",
    {},
    h(
      "div",
      { class: "split even" },
      h(
        "div",
        {},
        h("h3", {}, "How to read this page"),
        h(
          "dl",
          { class: "reading" },
          reading.map(([term, text]) => [h("dt", {}, term), h("dd", {}, text)]),
        ),
      ),
      h(
        "div",
        {},
        h("h3", {}, "Provenance"),
        h(
          "dl",
          { class: "provenance" },
          Object.entries(doc.provenance).map(([key, value]) => [
            h("dt", {}, key),
            h("dd", {}, String(value)),
          ]),
        ),
        doc.prompt === undefined
          ? null
          : [
              h("h3", {}, "Prompt, verbatim"),
              h("pre", { class: "verbatim", dir: "auto", tabindex: 0 }, wellFormed(doc.prompt)),
            ],
      ),
    ),
    h(
      "p",
      { class: "note" },
      "Numbers such as 3.2.2 are entries of A Primer on the Inner Workings of Transformer-based Language Models (arXiv 2405.00208).",
    ),
  );
}
