// The question, the prompt coloured by what moved the answer, the likely next tokens, and four facts in short.

import { h, tokenChip } from "../kit/dom.js";
import { fact, masthead } from "../kit/masthead.js";
import { count, number, percent, signed, size, times } from "../kit/numbers.js";
import { inputColours, inputTip, scaleEnds } from "./inputs.js";
import { choice } from "../kit/choice.js";
import { divergingLegend } from "../kit/legend.js";
import { tipTable, tipped } from "../kit/tooltip.js";
import { tokenFlow } from "../kit/token_flow.js";
import { beforeTheLast, leadingMethod, leadsFrom, verdictOf } from "./lead.js";

export function header(doc) {
  const { model, target, foil, metric } = doc;
  const [pTarget, pFoil] = [target, foil].map((token) => finalProbability(doc, token));
  return [
    masthead(model.name, describe(model)),
    h(
      "section",
      { class: "question" },
      h("h1", {}, "Why ", tokenChip(target, "target"), " and not ", tokenChip(foil, "foil"), "?"),
      h(
        "p",
        { class: "lede" },
        "After this prompt the model gives ",
        tokenChip(target, "target small"),
        ` ${percent(pTarget)} and `,
        tokenChip(foil, "foil small"),
        ` ${percent(pFoil)}: their logits differ by `,
        h("b", {}, signed(metric.value)),
        ".",
      ),
      h("div", { class: "split wide-left" }, h("div", {}, prompt(doc), facts(doc)), predictions(doc)),
    ),
  ];
}

function describe(model) {
  const heads =
    model.n_kv_heads === model.n_heads
      ? `${model.n_heads} heads`
      : `${model.n_heads} heads (${model.n_kv_heads} key-value)`;
  return `${count(model.n_layers)} layers × ${heads} · width ${count(model.d_model)} · ${size(model.parameters)} parameters · ${model.dtype}`;
}

const finalProbability = (doc, token) =>
  doc.lens[token === doc.target ? "target_prob" : "foil_prob"].at(-1)[doc.position];

/** The prompt, coloured by a method of the reader's choice. */
export function prompt(doc) {
  const { methods } = doc.inputs;
  let method = methods[0];
  const flow = tokenFlow(doc.tokens, { label: "The prompt, token by token", tip: (i) => inputTip(doc, i) });
  flow.element.append(h("span", { class: "next", "aria-hidden": "true" }, "→ ?"));
  if (!method) return h("div", { class: "panel" }, h("h3", {}, "Prompt"), flow.element);
  const legend = divergingLegend();
  const control = choice(
    "Colour the prompt by",
    methods.map((m) => ({ value: m, label: m.label })),
    (chosen) => {
      method = chosen;
      flow.colour(inputColours(method));
      legend.name(...scaleEnds(doc, method));
    },
  );
  control.choose(leadingMethod(doc.inputs));
  return h(
    "div",
    { class: "panel" },
    h("div", { class: "panel-head" }, h("h3", {}, "Prompt"), control.element),
    h("div", { class: "prompt" }, flow.element),
    legend.element,
  );
}

/** The likeliest next tokens, those of the question in their colours. */
export function predictions(doc) {
  const largest = doc.predictions[0]?.prob ?? 1;
  return h(
    "div",
    { class: "panel" },
    h("div", { class: "panel-head" }, h("h3", {}, "Most likely next tokens")),
    h(
      "ol",
      { class: "bars" },
      doc.predictions.map((token) => {
        const kind = token.id === doc.target.id ? "target" : token.id === doc.foil?.id ? "foil" : "other";
        const row = h(
          "li",
          { tabindex: 0 },
          h("span", { class: "bar-name" }, tokenChip(token, `${kind} bare`)),
          h(
            "span",
            { class: "bar-track" },
            h("span", { class: `bar ${kind}`, style: { width: `${(100 * token.prob) / largest}%` } }),
          ),
          h("span", { class: "bar-value" }, percent(token.prob)),
        );
        return tipped(row, () =>
          tipTable(tokenChip(token), [
            ["probability", number(token.prob)],
            ["logit", signed(token.logit)],
            ["token id", count(token.id)],
          ]),
        );
      }),
    ),
  );
}

function facts(doc) {
  const { metric, target, foil } = doc;
  const odds = Math.exp(Math.abs(metric.value));
  const [ahead, behind] = metric.value >= 0 ? [target, foil] : [foil, target];
  return h(
    "dl",
    { class: "facts" },
    fact(signed(metric.value), "logit difference", [
      tokenChip(ahead, "bare"),
      ` is ${times(odds)} times as likely as `,
      tokenChip(behind, "bare"),
    ]),
    leadFact(doc),
    largestFact(doc),
    checksFact(doc),
  );
}

function checksFact({ checks }) {
  const verdicts = checks.map(verdictOf);
  const [held, weak] = ["held", "weak"].map((word) => verdicts.filter((verdict) => verdict === word).length);
  const rest = [weak && `${weak} weak`, checks.length - held - weak && `${checks.length - held - weak} failed`].filter(Boolean);
  return fact(
    `${held} of ${checks.length}`,
    "checks held",
    rest.length ? `${rest.join(", ")}: see the last section` : "they are in the last section",
    rest.length > 0 && "warn",
  );
}

function largestFact({ ablations }) {
  const largest = [...ablations.rows].sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect))[0];
  if (!largest) return fact("none", "component ablated", "how much one matters was not measured");
  return fact(
    largest.name,
    "largest measured effect",
    `without it the difference ${largest.effect < 0 ? "gains" : "loses"} ${number(Math.abs(largest.effect))}; its direct share is ${signed(largest.attributed)}`,
  );
}

function leadFact({ lens, target, foil }) {
  const lead = leadsFrom(lens.logit_diff, lens.layers);
  const over = [tokenChip(target, "bare"), " over ", tokenChip(foil, "bare")];
  if (lead === null) return fact("never", "leads to the end", ["the last layer does not put ", over]);
  const [end, before] = [signed(lens.logit_diff.at(-1)), beforeTheLast(lens.logit_diff, lens.layers, lead)];
  const where = [`layer ${lens.layers[lead.row]}`, "decided after, by the lens"];
  if (before !== null)
    return fact(...where, ["only the last layer puts ", over, ` by as much as ${end}; after the one before it is ${signed(before)}`]);
  return fact(...where, [
    "from there on it puts ",
    over,
    ` by ${signed(lead.margin)} or more, at least half of the end’s ${end}`,
  ]);
}
