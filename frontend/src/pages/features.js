// The page of `caseback dictionary features`: a prompt with its features, all features in a table, and some as cards.

import { choice } from "../kit/choice.js";
import { h, put, tokenChip, tokenText } from "../kit/dom.js";
import { TOKENS, documentEnd } from "../kit/footer.js";
import { fact, masthead } from "../kit/masthead.js";
import { count, exact, number, percent } from "../kit/numbers.js";
import { page } from "../kit/page.js";
import { part } from "../kit/part.js";
import { cardView, chips, link, shaded } from "../sections/feature_card.js";

const AT_ONCE = 100; // rows of the table

const ORDERS = [
  { value: "max", label: "largest", hint: "the largest activation first" },
  { value: "dense", label: "most often", hint: "active at most tokens first" },
  { value: "rare", label: "rarest", hint: "active at fewest tokens first, of those that are at any" },
  { value: "feature", label: "number", hint: "by number" },
];
const BY = {
  max: (a, b) => Math.abs(b.max) - Math.abs(a.max),
  dense: (a, b) => b.density - a.density,
  rare: (a, b) => (a.density || 2) - (b.density || 2),
  feature: (a, b) => a.feature - b.feature,
};

function sections(doc) {
  const { model, dictionary, features, cards } = doc;
  const silent = features.filter(({ density }) => density === 0).length;
  const l0 = features.reduce((sum, { density }) => sum + density, 0);
  const where =
    dictionary.site === dictionary.target ? dictionary.site : `${dictionary.site} → ${dictionary.target}`;
  const carded = new Set(cards.map(({ feature }) => feature));
  return [
    masthead(model.name, `${count(model.n_layers)} layers × ${count(model.d_model)} wide · ${model.dtype}`),
    h(
      "section",
      { class: "question" },
      h("h1", {}, `What are the ${count(features.length)} features of ${where}?`),
      h(
        "p",
        { class: "lede" },
        `A ${dictionary.architecture} dictionary, over ${count(doc.tokens)} tokens of a corpus.`,
        h("span", { class: "entry" }, "Primer 4.2.16"),
      ),
      h(
        "dl",
        { class: "facts three" },
        fact(number(l0), "active a token", "the mean over the corpus"),
        fact(percent(1 - silent / features.length), "of the features were active", `${count(silent)} were not, here`),
        fact(count(cards.length), "have a card below", "with their strongest examples"),
      ),
    ),
    doc.prompt && promptView(doc.prompt, carded),
    doc.factors && factorsView(doc.factors),
    browser(features, carded),
    cards.length > 0 &&
      part(
        "cards",
        "Cards",
        "What each reacts to, and which tokens’ logits it raises and lowers on the direct path.",
        cards.map((card) => cardView(card, carded)),
      ),
    documentEnd({ ...doc, prompt: undefined, factors: undefined }, doc.factors ? [...READING, FACTORS] : READING),
  ];
}

const promptView = (tokens, carded) =>
  part(
    "prompt",
    "On a prompt",
    "Under each token how many features are active there, and the strongest.",
    h(
      "div",
      { class: "feature-prompt" },
      tokens.map(({ token, active, features }) =>
        h(
          "div",
          { class: "feature-of-token" },
          tokenChip({ visible: token }, "bare"),
          h("span", { class: "faint" }, ` ${count(active)}`),
          h(
            "ol",
            { class: "feature-table" },
            features
              .slice(0, 5)
              .map(({ feature, activation }) =>
                h("li", {}, link(feature, carded), h("span", { class: "num" }, number(activation))),
              ),
          ),
        ),
      ),
    ),
  );

const factorsView = ({ tokens, parts, explained }) =>
  part(
    "factors",
    "Without a dictionary",
    `${count(parts.length)} nonnegative factors of all MLP neurons at the prompt’s tokens; together they explain ${percent(explained)} of the squares.`,
    parts.map(({ share, values, neurons, up }, i) => {
      const most = Math.max(...values, 1e-30);
      return h(
        "section",
        { class: "feature-factor", "aria-label": `factor ${i}` },
        h("h3", {}, `Factor ${i}`, h("span", { class: "faint" }, ` ${percent(share)} goes without it`)),
        h("p", { class: "feature-text" }, tokens.map((token, pos) => shaded(token, values[pos], most))),
        h("p", { class: "note" }, neurons.join(" ")),
        h("div", {}, "raises ", chips(up, 1)),
      );
    }),
  );

function browser(features, carded) {
  const body = h("tbody", {});
  const note = h("p", { class: "feature-more", role: "status" });
  let words = [];
  let order = "max";
  const text = new Map(
    features.map((row) => [
      row.feature,
      `${row.feature} ${row.label ?? ""} ${row.up.join(" ")} ${row.down.join(" ")} ${row.strongest.join("")}`.replaceAll("␣", " ").toLowerCase(),
    ]),
  );
  const draw = () => {
    const matching = features.filter(({ feature }) => words.every((word) => text.get(feature).includes(word)));
    matching.sort(BY[order]);
    put(body, matching.slice(0, AT_ONCE).map((row) => rowView(row, carded)));
    const shown = Math.min(AT_ONCE, matching.length);
    put(note, `${count(shown)} of ${count(matching.length)} that match, of ${count(features.length)}.`);
  };
  const input = h("input", {
    type: "search",
    placeholder: "a word, or a number",
    "aria-label": "Search features by what they write, where they are strongest, or number",
    on: {
      input: () => {
        words = input.value.toLowerCase().split(/\s+/u).filter(Boolean);
        draw();
      },
    },
  });
  const orders = choice("Order of the table", ORDERS, (value) => {
    order = value;
    draw();
  });
  const heads = ["feature", "active at", "largest", "raises", "lowers", "strongest at the last of"];
  if (features.some(({ label }) => label)) heads.push("note");
  return part(
    "features",
    "All features",
    "By what they write on the direct path to the logits, and the token of the corpus at which they are strongest.",
    h("div", { class: "feature-find" }, input, orders.element),
    h(
      "div",
      { class: "feature-scroll" },
      h(
        "table",
        { class: "feature-table" },
        h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
        body,
      ),
    ),
    note,
  );
}

const rowView = (row, carded) =>
  h(
    "tr",
    {},
    h("td", { class: "num" }, link(row.feature, carded)),
    h("td", { class: "num" }, percent(row.density)),
    h("td", { class: "num", title: exact(row.max) }, number(row.max)),
    h("td", {}, chips(row.up, 1)),
    h("td", {}, chips(row.down, -1)),
    h("td", { class: "mono" }, tokenText(row.strongest.join(""))),
    row.label && h("td", {}, row.label),
  );

const READING = [
  TOKENS,
  ["Activation", "In the dictionary’s own units: two features’ numbers compare only as far as their rows’ norms do."],
  [
    "Raises, lowers",
    "The largest and smallest products of a feature’s row with the unembedding, the final norm’s gain folded in. Effects through later layers are not in them.",
  ],
  [
    "Fires at",
    "Conditions on a token and the one before, fitted on half of the documents. Detection and fuzzing are balanced accuracies on the other half: which windows, and which tokens of them. 0.5 is chance; in brackets, with another feature’s conditions.",
  ],
  [
    "Examples",
    "The strongest alone: a feature may mean less, or other things, where it is weak. What it does to a prediction takes an intervention.",
  ],
];

const FACTORS = [
  "Factors",
  "Of one prompt: another has others. A factor’s neurons are those with the largest weights in it; what it raises is read on the direct path. First tokens are left out.",
];

page(sections);
