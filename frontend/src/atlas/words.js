// Units by a word: whose weights read, write or lower it, and in whose windows of text it stands where they are largest.

import { h } from "../kit/dom.js";
import { count } from "../kit/numbers.js";

const WAYS = ["writes", "lowers", "reads"];
const AT = "at";
const MOST = 60;

const plain = (text) => text.trim().toLowerCase();

/** Units with how each has the word, those whose weights have it before those with a window; `cards` by unit. */
export function unitsOf(cards, word) {
  const wanted = plain(word);
  if (!wanted) return [];
  const rows = [];
  for (const [unit, { words, windows }] of Object.entries(cards)) {
    const ways = WAYS.filter((way) => words.some((line) => line[way]?.some((text) => plain(text) === wanted)));
    if (windows.some(({ tokens, at }) => plain(tokens[at]) === wanted)) ways.push(AT);
    if (ways.length) rows.push({ unit, ways });
  }
  const order = ({ ways }) => [...WAYS, AT].indexOf(ways[0]);
  return rows.sort((a, b) => order(a) - order(b));
}

/** What the page says of a word: a button a unit, or in words that there is none. */
export function ofWord(cards, word, open) {
  const rows = unitsOf(cards, word);
  const command = `caseback weights MODEL --find "${word.startsWith(" ") ? word : ` ${word}`}"`;
  if (!rows.length) {
    const none = `Of ${count(Object.keys(cards).length)} units with a card none has “${word.trim()}” among its strongest words or texts. `;
    return h("p", { class: "note" }, none, h("code", {}, command), " looks at all of them.");
  }
  const cut = rows.length > MOST ? ` The first ${MOST} of ${count(rows.length)}.` : "";
  return [
    h("p", { class: "note" }, `Units whose strongest words, or the token where they are largest, are “${word.trim()}”.${cut} `, h("code", {}, command), " looks at all units."),
    h(
      "p",
      { class: "strongest" },
      rows.slice(0, MOST).map(({ unit, ways }) =>
        h("button", { type: "button", class: "name", on: { click: () => open(unit) } }, `${unit} ${ways.map((way) => (way === AT ? "fires there" : way)).join(", ")}`),
      ),
    ),
  ];
}
