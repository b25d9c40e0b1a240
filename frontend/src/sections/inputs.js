// Which inputs: one strip of tokens for each attribution method, on a signed scale centred on zero.

import { h, tokenChip } from "../kit/dom.js";
import { signed } from "../kit/numbers.js";
import { divergingLegend } from "../kit/legend.js";
import { diverging } from "../kit/theme.js";
import { tipTable } from "../kit/tooltip.js";
import { tokenFlow } from "../kit/token_flow.js";
import { figure, part } from "../kit/part.js";
import { comparisonFigures } from "./comparison.js";

// Up to this many tokens stand in one row of columns; up to that many have a bar each; beyond, colour has to do.
const MOST_WIDE = 20;
const MOST_BARRED = 80;

const largest = ({ scores }) => scores.reduce((most, score) => Math.max(most, Math.abs(score)), 1e-12);

/** index → colour, on the method's own scale. */
export function inputColours(method) {
  const most = largest(method);
  return (i) => diverging(method.scores[i] / most);
}

/** What the two ends of a method's scale mean, and where it begins: at 0 where no score is known to be below. */
export function scaleEnds({ target, foil }, method) {
  const most = largest(method);
  if (method.signed === false) return ["0", signed(most), 0];
  return [
    [signed(-most), foil ? " for " : " against ", tokenChip(foil ?? target, foil ? "foil bare" : "bare")],
    [signed(most), " for ", tokenChip(target, "target bare")],
  ].map((parts) => h("span", {}, parts));
}

/** A token's score under every method. */
export const inputTip = ({ tokens, inputs }, i) =>
  tipTable(
    [tokenChip(tokens[i]), ` position ${i}`],
    [
      ...inputs.methods.map((method) => [method.label, signed(method.scores[i])]),
      ...(tokens[i].id === undefined ? [] : [["token id", String(tokens[i].id)]]),
    ],
  );

export function inputsView(doc) {
  const { methods } = doc.inputs;
  return part(
    "inputs",
    "Which inputs",
    "How much each token of the prompt moved the logit difference. Orange pushed towards the target, blue towards the foil; each method has its own scale.",
    methods.length
      ? methods.map((method) => strip(doc, method))
      : h("p", { class: "note" }, "No input attribution was computed."),
    doc.inputs.comparison ? comparisonFigures(doc.inputs.comparison, methods) : null,
  );
}

/** One method's scores as a strip of tokens, with what the method says of itself. */
export function strip(doc, method) {
  const n = doc.tokens.length;
  const oneRow =
    n <= MOST_WIDE && doc.tokens.every(({ text, visible }) => visible.length <= 16 && !text.includes("\n"));
  const bars = oneRow ? "wide" : n <= MOST_BARRED ? "small" : "none";
  const flow = tokenFlow(doc.tokens, {
    label: `${method.label}, token by token`,
    tip: (i) => inputTip(doc, i),
    bars,
  });
  const most = largest(method);
  flow.colour(inputColours(method));
  flow.size(
    (i) => method.scores[i] / most,
    (i) => signed(method.scores[i]),
  );
  const legend = divergingLegend();
  legend.name(...scaleEnds(doc, method));
  return figure(
    [method.label, h("span", { class: "entry" }, `Primer ${method.entry}`)],
    account(doc, method),
    h("div", { class: "strip" }, flow.element),
    legend.element,
  );
}

const baselineWords = (name) =>
  name === "mean_after_first"
    ? "the mean baseline, which keeps the first token: its score is therefore 0"
    : `the ${name === undefined ? "" : `${name} `}baseline`;

function account({ metric }, { scores, steps, baseline, completeness_gap: gap }) {
  const sum = scores.reduce((total, score) => total + score, 0);
  const whole = { logit: "logit", prob: "probability", log_prob: "log probability" }[metric.name];
  const parts = [`Scores sum to ${signed(sum)}; the ${whole ?? "logit difference"} is ${signed(metric.value)}.`];
  if (steps !== undefined)
    parts.push(` ${steps} steps from ${baselineWords(baseline)}.`);
  if (gap !== undefined && gap !== null)
    parts.push(
      " Completeness gap ",
      h("b", {}, gap === 0 ? "0" : signed(gap)),
      ` (what the scores miss of the change from the baseline).`,
    );
  else parts.push(" This method does not promise that they agree.");
  return parts;
}
