// The page of an atlas: it is written as HTML, and this puts the map in front of its tables: one kind at a time, with a
// card for each unit, and units by a word. What is chosen is in the address, as kind=…, unit=… and word=….

import { card } from "../atlas/card.js";
import { looks, place } from "../atlas/looks.js";
import { draw } from "../atlas/map.js";
import { ofWord } from "../atlas/words.js";
import { recall, remember } from "../kit/address.js";
import { pageDocument } from "../kit/document.js";
import { h, put } from "../kit/dom.js";
import { furnish } from "../kit/furnish.js";
import { count } from "../kit/numbers.js";

const SORTS = [
  ["head", "Heads"],
  ["expert", "Experts"],
  ["neuron", "Neurons"],
];
const TOGETHER = 6; // kinds named of those that share units with the one shown

pageDocument().then((doc) => {
  const main = document.querySelector("main");
  if (doc.looks) main.querySelector(".lead").after(map(doc));
  furnish(main, doc);
});

function map(doc) {
  const known = looks(doc);
  const layers = Number(doc.model.layers ?? 0);
  const field = h("div", { class: "atlas-map" });
  const beside = h("div", { class: "atlas-card", "aria-live": "polite" });
  const words = h("p", { class: "note" });
  const showCard = (name) => put(beside, card(name, known.unit(name), doc.cards?.[name]));
  const open = (name) => {
    remember("unit", name);
    showCard(name);
  };
  const select = h(
    "select",
    {
      id: "atlas-kind",
      on: {
        change: () => {
          remember("kind", select.value);
          show(select.value);
        },
      },
    },
    SORTS.map(([sort, title]) => {
      const own = known.kinds.filter((kind) => kind.sort === sort);
      return own.length > 0 && h("optgroup", { label: title }, own.map((kind) => option(kind, known)));
    }).filter(Boolean),
  );
  const named = h("input", {
    id: "atlas-unit",
    type: "text",
    size: 10,
    placeholder: "L2H0",
    spellcheck: "false",
    on: {
      change: () => {
        const name = named.value.trim().toUpperCase();
        if (place(name)) open(name);
        else put(beside, h("p", { class: "note" }, `${named.value} is no unit: expected a name such as L2H0 or L3N154`));
      },
    },
  });
  const matches = h("div", { "aria-live": "polite" });
  const find = (word) => put(matches, word.trim() && ofWord(doc.cards, word, open));
  const word = h("input", {
    id: "atlas-word",
    type: "text",
    size: 10,
    spellcheck: "false",
    on: {
      input: () => {
        remember("word", word.value);
        find(word.value);
      },
    },
  });
  function show(name) {
    const kind = known.kinds.find((one) => one.kind === name);
    select.value = name;
    put(words, about(kind, known));
    draw(field, kind, known.of(name), layers, open);
  }
  const first = [...known.kinds].sort((a, b) => rank(a, known) - rank(b, known))[0];
  const asked = known.kinds.find(({ kind }) => kind === recall("kind"));
  const unit = recall("unit") ?? decodeURIComponent(location.hash.slice(1));
  if (first) show((asked ?? first).kind);
  if (place(unit)) showCard(unit);
  if (doc.cards && recall("word")) {
    word.value = recall("word");
    find(word.value);
  }
  return h(
    "section",
    { class: "atlas-view" },
    h("h2", { id: "map" }, "Map"),
    h(
      "p",
      { class: "atlas-asked" },
      h("label", { for: "atlas-kind" }, "kind "),
      select,
      h("label", { for: "atlas-unit" }, " unit "),
      named,
      doc.cards && [h("label", { for: "atlas-word" }, " word "), word],
    ),
    matches,
    words,
    h("div", { class: "atlas-both" }, field, beside),
  );
}

// what is proved most comes first
const rank = (kind, known) => -1e6 * known.of(kind.kind).filter(({ proved }) => proved).length - kind.labelled;

const option = ({ kind, labelled }, known) => {
  const proved = known.of(kind).filter((row) => row.proved).length;
  return h("option", { value: kind }, `${kind}: ${count(labelled)}${proved ? `, ${count(proved)} proved` : ""}`);
};

function about(kind, known) {
  const rows = known.of(kind.kind);
  const labeled = rows.filter((row) => row.labeled);
  const shared = new Map();
  for (const { unit } of labeled) {
    for (const row of known.unit(unit)) {
      if (row.labeled && row.kind !== kind) shared.set(row.kind.kind, 1 + (shared.get(row.kind.kind) ?? 0));
    }
  }
  const often = [...shared].sort((a, b) => b[1] - a[1]).slice(0, TOGETHER);
  const all = labeled.length < kind.labelled ? `The ${count(labeled.length)} strongest of ${count(kind.labelled)} ${kind.sort}s with the label. ` : "";
  const looked = `${kind.looks_at[0].toUpperCase()}${kind.looks_at.slice(1)}. `;
  const legend =
    kind.sort === "neuron"
      ? "A line is a neuron, as tall as its score; dark: proved."
      : "Shaded by the score; framed: label; framed darkly: proved.";
  const together = often.length ? ` The same units are also: ${often.map(([name, n]) => `${name} (${count(n)})`).join(", ")}.` : "";
  return looked + all + legend + together;
}
