// Several attributions of one prediction, and how far to trust them.

import { part } from "../kit/part.js";
import { comparisonFigures, sideBySide } from "./comparison.js";
import { strip } from "./inputs.js";

// More strips than this would only repeat the map above them.
const MOST_STRIPS = 6;

export const METRICS = {
  logit_diff: "logit difference",
  logit: "logit",
  prob: "probability",
  log_prob: "log probability",
};

/** The document as the views of an explanation read it. */
export const withMethods = (given) => ({
  ...given,
  inputs: { methods: given.methods.map((method) => ({ ...method, ...method.said })) },
});

export function attributionParts(doc) {
  const { methods } = doc.inputs;
  return [
    part(
      "inputs",
      "Which inputs",
      `How much each ${doc.features} moved the ${METRICS[doc.metric.name]}. Orange raised it, blue lowered it, each method on its own scale; a method without a sign knows only how much.`,
      sideBySide(doc),
      methods.length <= MOST_STRIPS ? methods.map((method) => strip(doc, method)) : null,
    ),
    part(
      "trust",
      "How far to trust them",
      "Methods answer different questions, and agreement is no proof; what the model does when the tokens go is a test. Prompts with holes are unlike those that it was trained on, and so are the baselines put in their place.",
      comparisonFigures(doc.comparison, methods),
    ),
  ];
}
