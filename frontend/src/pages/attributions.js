// The page of `caseback attribute`: several attributions of one prediction, and how far to trust them.

import { h, tokenChip } from "../kit/dom.js";
import { TOKENS, documentEnd } from "../kit/footer.js";
import { masthead } from "../kit/masthead.js";
import { percent, signed } from "../kit/numbers.js";
import { page } from "../kit/page.js";
import { part } from "../kit/part.js";
import { METRICS, attributionParts, withMethods } from "../sections/attributed.js";
import { generationView } from "../sections/generation.js";
import { predictions, prompt } from "../sections/header.js";

function sections(given) {
  const doc = withMethods(given);
  return [
    masthead(doc.model.name, `${doc.model.n_layers} layers × ${doc.model.n_heads} heads · ${doc.model.dtype}`),
    question(doc),
    ...attributionParts(doc),
    generationView(doc),
    refused(doc),
    documentEnd(doc, READING),
  ];
}

function question(doc) {
  const { target, foil, metric } = doc;
  const listed = doc.predictions.find(({ id }) => id === target.id);
  return h(
    "section",
    { class: "question" },
    h(
      "h1",
      {},
      "Why ",
      tokenChip(target, "target"),
      foil ? [" and not ", tokenChip(foil, "foil")] : null,
      "?",
    ),
    h(
      "p",
      { class: "lede" },
      `The ${METRICS[metric.name]} explained is `,
      h("b", {}, signed(metric.value)),
      listed
        ? ["; the model gives ", tokenChip(target, "target small"), ` ${percent(listed.prob)}.`]
        : ["; ", tokenChip(target, "target small"), " is not among the model’s first choices."],
    ),
    h("div", { class: "split wide-left" }, prompt(doc), predictions(doc)),
  );
}

const refused = (doc) =>
  doc.refused.length
    ? part(
        "refused",
        "Left out",
        "Methods that refused this model or prompt, and why.",
        h(
          "dl",
          { class: "reading" },
          doc.refused.map(({ name, why }) => [h("dt", { class: "mono" }, name), h("dd", {}, why)]),
        ),
      )
    : null;

const READING = [
  [
    "Scores",
    "Of a contrast, orange is what spoke for the target and blue what spoke for the foil. What a unit of a score means is the method’s own matter; ranks can be compared across methods, sizes cannot.",
  ],
  TOKENS,
  [
    "Comprehensiveness",
    "How much of the metric is lost when the highest scores’ tokens go, averaged over how many (AOPC). Faithful attributions lose much, and early.",
  ],
  [
    "Sufficiency",
    "How much is lost when only those tokens stay. Faithful attributions lose little; less than nothing where the others spoke against.",
  ],
  ["Random orders", "What an attribution that knows nothing would get on this very prompt."],
];

page(sections);
