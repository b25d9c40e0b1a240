// The page of `caseback weights`: singular vectors and units as token clouds, a head's circuit as pairs of tokens.

import { cloud } from "../kit/cloud.js";
import { most } from "../kit/cloud_scale.js";
import { h, tokenChip } from "../kit/dom.js";
import { TOKENS, documentEnd } from "../kit/footer.js";
import { divergingLegend } from "../kit/legend.js";
import { fact, masthead } from "../kit/masthead.js";
import { count, exact, number, percent, signed } from "../kit/numbers.js";
import { page } from "../kit/page.js";
import { figure, part } from "../kit/part.js";
import { tipTable, tipped } from "../kit/tooltip.js";

const SIGNS = [
  ["top", "+"],
  ["bottom", "−"],
];
const UNITS = { neuron: "neuron", d_head: "dimension" };

function sections(doc) {
  const { model, form } = doc;
  return [
    masthead(
      model.name,
      `${count(model.n_layers)} layers × ${count(model.n_heads)} heads · ${count(model.vocab)} tokens · ${model.dtype}`,
    ),
    h(
      "section",
      { class: "question" },
      h("h1", {}, `${doc.title}: ${form === "pairs" ? "which token leads to which" : "which tokens lie along them"}?`),
      h("p", { class: "lede" }, LEDES[form](doc), h("span", { class: "entry" }, `Primer ${doc.entry}`)),
      form === "pairs" ? pairFacts(doc) : cloudLegend(),
    ),
    form === "pairs" ? pairsView(doc) : doc.panels.map((panel, i) => panelView(doc, panel, i)),
    documentEnd(doc, [...READINGS[form], ...COMMON, FOLDED[doc.folded]]),
  ];
}

const LEDES = {
  singular: ({ panels, of }) => [
    of === "qk"
      ? "Each singular vector pairs a direction that a query asks along with one that a key answers along."
      : "What lies along the left vector of a pair is scaled by the singular value and given along the right one.",
    ` The ${panels.length === 1 ? "one" : count(panels.length)} shown `,
    panels.length === 1 ? "holds " : "hold ",
    h("b", {}, percent(Math.min(1, panels.reduce((sum, { share }) => sum + share, 0)))),
    " of the squared Frobenius norm.",
  ],
  units: ({ neuron, units, panels, of }) =>
    neuron === null
      ? `The first ${count(panels.length)} of ${count(units)} ${UNIT_NAMES[of] ?? "dimensions of the head"}, each with the tokens at both its ends.`
      : "What each of the neuron’s weights reads from the stream, or writes to it, as tokens.",
  pairs: ({ of }) =>
    of === "ov"
      ? "Attending to the first token raises the second most, or lowers it most, on the direct path to the logits."
      : "A query of the first token prefers a key of the second most, or least, at distance 0.",
};

const UNIT_NAMES = { in: "neurons", gate: "neurons", out: "neurons" };

function cloudLegend() {
  const legend = divergingLegend();
  legend.name("−1", "+1 × the largest value of a side, by which words are sized");
  return legend.element;
}

function panelView(doc, { name, value, share, sides }, index) {
  const largest = doc.panels[0].value;
  const ends = SIGNS.flatMap(([end, sign]) =>
    sides.map((side) => cloud(side[end], most(side), `${sign} ${side.label}`, UNITS[side.of])),
  );
  const id = `panel-${index}`;
  return h(
    "section",
    { class: "panel-of-clouds", "aria-labelledby": id },
    value === null
      ? h("h2", { id, class: "panel-name" }, name)
      : h(
          "div",
          { class: "singular" },
          h("h2", { id, class: "panel-name" }, name),
          tipped(
            h(
              "span",
              { class: "bar-track", tabindex: 0, role: "img", "aria-label": `singular value ${number(value)}` },
              h("span", { class: "bar seq", style: { width: `${(100 * value) / (largest || 1)}%` } }),
            ),
            () =>
              tipTable(name, [
                ["singular value", exact(value)],
                ["share of the squares", exact(share)],
              ]),
          ),
          h("b", { class: "num" }, number(value)),
          h("span", { class: "num faint" }, `${percent(share)} of the squares`),
        ),
    h("div", { class: "clouds" }, ends),
  );
}

function pairFacts({ of, pairs }) {
  const { copying, rows, own_mean: own, mean } = pairs;
  const why = of === "ov" ? "how far the head copies" : "how far tokens look for themselves";
  return h(
    "dl",
    { class: "facts three" },
    fact(percent(copying), "own token largest", `of ${count(rows)} tokens’ rows: ${why}`),
    fact(signed(own), "mean of a token with itself", "the diagonal’s mean"),
    fact(signed(mean), "mean of all pairs", "what the diagonal’s is to be compared with"),
  );
}

function pairsView({ of, pairs }) {
  const size = most(pairs);
  const [from, to] = of === "ov" ? ["attended to", "written"] : ["query", "key"];
  const list = (entries) =>
    h(
      "ol",
      { class: "bars token-pairs" },
      entries.map((pair) =>
        bar([tokenChip(pair.from, "bare"), h("span", { class: "faint" }, " → "), tokenChip(pair.to, "bare")], pair, size, [
          [`${from} (token ${count(pair.from.id)})`, tokenChip(pair.from, "bare")],
          [`${to} (token ${count(pair.to.id)})`, tokenChip(pair.to, "bare")],
        ]),
      ),
    );
  const own = h(
    "ol",
    { class: "bars token-pairs" },
    pairs.own.map((token) =>
      bar(tokenChip(token, "bare"), token, size, [
        ["token", tokenChip(token, "bare")],
        ["token id", count(token.id)],
      ]),
    ),
  );
  return part(
    "pairs",
    "Pairs of tokens",
    `${from[0].toUpperCase()}${from.slice(1)} → ${to}. All bars are on one scale.`,
    h(
      "div",
      { class: "split even" },
      figure("Largest", null, list(pairs.top)),
      figure("Smallest", null, list(pairs.bottom)),
    ),
    h(
      "div",
      { class: "split even own-tokens" },
      figure("A token with itself", "The largest entries of the diagonal.", own),
    ),
  );
}

const bar = (name, { value }, size, rows) =>
  tipped(
    h(
      "li",
      { tabindex: 0 },
      h("span", { class: "bar-name" }, name),
      h(
        "span",
        { class: "bar-track" },
        h("span", {
          class: `bar ${value < 0 ? "foil" : "target"}`,
          style: { width: `${(100 * Math.abs(value)) / size}%` },
        }),
      ),
      h("span", { class: "bar-value" }, signed(value)),
    ),
    () => tipTable(["value ", exact(value)], rows),
  );

const SIGN = [
  "Signs",
  "A pair of vectors has no sign of its own: turned together they are the same pair. What stands at + on one side goes with + on the other, − with −.",
];

const READINGS = {
  singular: [
    SIGN,
    [
      "Clouds",
      "A token’s value is the direction’s product with its embedding (what is read) or its unembedding (what is written). Words are sized and coloured by it, each side on its own scale; a side of neurons, or of a head’s own dimensions, is told by their numbers.",
    ],
    ["Share", "Of the sum of all squared singular values, those not shown counted too."],
  ],
  units: [
    [
      "Clouds",
      "A token’s value is the weight’s product with its embedding (reads) or its unembedding (writes). Words are sized and coloured by it, each direction on its own scale; + is the largest values, − the smallest.",
    ],
  ],
  pairs: [
    ["Bars", "Orange is above zero, blue below."],
    [
      "Own token",
      "The share of tokens whose own entry is the largest of their row. A head that copies, or looks for, what earlier layers made of a token is not seen here.",
    ],
  ],
};

const COMMON = [
  TOKENS,
  [
    "Direct path",
    "The layers in between, and the norms’ denominators, are left out: values compare within a page, not with logits.",
  ],
];

const FOLDED = {
  true: ["Folded", "Norms and multipliers beside the weight are folded in, since the model applies them too."],
  false: ["Bare", "The weights alone were multiplied, without the norms and multipliers beside them."],
};

page(sections);
