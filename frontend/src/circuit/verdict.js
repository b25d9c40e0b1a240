// How the circuit was judged: what it recovers under each ablation, what it lacks, what it has too much of, and caveats.

import { h } from "../kit/dom.js";
import { number, percent } from "../kit/numbers.js";

export function verdictView({ judgement }) {
  const { faithfulness, completeness, minimality, groups, caveats } = judgement;
  const leftOut = Object.entries(judgement.left_out ?? {}).map(([name, why]) => `${name} (${why})`);
  // a bar from 0 to its value, also below 0, among all values of its list; a dashed line where the whole model is
  const rows = (values, whole) => {
    const low = Math.min(0, ...values);
    const high = Math.max(whole ? 1 : 1e-9, ...values);
    const at = (value) => (100 * (value - low)) / (high - low);
    return (name, value, text, more) =>
      h(
        "li",
        { title: more },
        h("span", { class: "bar-name" }, name),
        h(
          "span",
          { class: "bar-track" },
          low < 0 ? h("span", { class: "zero", style: { left: `${at(0)}%` } }) : null,
          whole ? h("span", { class: "whole-model", style: { left: `${at(1)}%` } }) : null,
          h("span", { class: "bar seq", style: { left: `${at(Math.min(0, value))}%`, width: `${at(Math.max(0, value)) - at(Math.min(0, value))}%` } }),
        ),
        h("span", { class: "bar-value" }, text),
      );
  };
  const byAblation = rows(faithfulness.map(({ recovered }) => recovered), true);
  const listed = Object.entries(groups).slice(0, 12);
  const byGroup = rows(listed.map(([, share]) => share), true);
  const parts = minimality ? Object.entries(minimality.share).sort((a, b) => b[1] - a[1]) : [];
  const byNode = rows(parts.map(([, share]) => share), false);
  return [
    h(
      "div",
      { class: "split even" },
      h(
        "figure",
        {},
        h("figcaption", {}, h("h3", {}, "Recovered, by what the cut edges carry"), h("p", { class: "note" }, "(m(C) − m(∅)) / (m(M) − m(∅)), with the bootstrap interval over prompts. Dashed: 1, the whole model.")),
        h(
          "ol",
          { class: "bars ablations" },
          faithfulness.map((found) =>
            byAblation(
              found.ablation,
              found.recovered,
              `${number(found.recovered)} [${number(found.recovered_low)}, ${number(found.recovered_high)}]`,
              `ratio ${number(found.ratio)}, difference ${number(found.difference)}`,
            ),
          ),
        ),
        Object.keys(groups).length > 1
          ? [
              h("h4", {}, "By group of prompts, the worst first: farthest from 1"),
              h("ol", { class: "bars groups" }, listed.map(([name, share]) => byGroup(name, share, number(share)))),
            ]
          : null,
        completeness
          ? h("p", { class: "note verdict-line" }, "Completeness: the widest gap between circuit and model with the same nodes taken from both is ", h("b", {}, percent(Math.min(9.99, completeness.worst_share))), " of the effect", completeness.worst_set ? `, without ${shorten(completeness.worst_set)}.` : ".")
          : null,
      ),
      parts.length
        ? h(
            "figure",
            {},
            h("figcaption", {}, h("h3", {}, "Needed? What each node changes"), h("p", { class: "note" }, "The most that its removal changes, given the removal of others, as a share of the effect.")),
            h(
              "ol",
              { class: "bars" },
              parts.slice(0, 14).map(([name, share]) => byNode(h("span", { class: "mono" }, name), share, percent(Math.min(9.99, share)))),
            ),
            parts.length > 14 ? h("p", { class: "note" }, `${parts.length - 14} more, the least ${minimality.least_part}.`) : null,
          )
        : null,
    ),
    leftOut.length ? h("p", { class: "note left-out" }, `Not judged: ${leftOut.join(", ")}. caseback circuit --judge full judges all of it.`) : null,
    caveats.length
      ? h("figure", {}, h("figcaption", {}, h("h3", {}, "What speaks against it", h("span", { class: "entry" }, "Primer 3.2.37"))), h("ul", { class: "caveats" }, caveats.map((text) => h("li", {}, text))))
      : null,
  ];
}

const shorten = (text) => (text.length > 90 ? `${text.slice(0, 88)} …` : text);
