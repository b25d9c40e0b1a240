// A feature's card: what people say of it, what it writes and its neighbors, how active it is, and its examples.

import { h, tokenChip, tokenText } from "../kit/dom.js";
import { count, number, signed } from "../kit/numbers.js";

export const link = (feature, carded) =>
  carded.has(feature)
    ? h("button", { type: "button", class: "feature-link", on: { click: () => show(feature) } }, String(feature))
    : h("span", {}, String(feature));

function show(feature) {
  const card = document.getElementById(`feature-${feature}`);
  card.scrollIntoView({ block: "start" });
  card.focus({ preventScroll: true });
}

export const shaded = (token, value, most, at = false) =>
  h(
    "span",
    {
      class: at ? "feature-token at" : "feature-token",
      title: value ? number(value) : null,
      style: { "--level": (0.75 * Math.abs(value)) / most },
    },
    tokenText(token),
  );

export const chips = (words, sign) =>
  h(
    "span",
    { class: "feature-words" },
    words.map((visible) => tokenChip({ visible }, sign > 0 ? "target" : "foil")),
  );

function explanationView({ text, detection, fuzzing, ...of }) {
  const beside = (score, other) => `${score.toFixed(2)}${other === null ? "" : ` (${other.toFixed(2)})`}`;
  return h(
    "p",
    {},
    "Fires at ",
    h("span", { class: "mono" }, tokenText(text)),
    h(
      "span",
      { class: "faint" },
      detection === null
        ? ", in too few windows to be judged."
        : `: detection ${beside(detection, of.detection_of_another)}, fuzzing ${beside(fuzzing, of.fuzzing_of_another)}.`,
    ),
  );
}

/** One card; `carded` are the features that have one on the page, which its neighbors are links to. */
export function cardView(card, carded) {
  const most = Math.max(...card.examples.flatMap(({ values }) => values.map(Math.abs)), 1e-30);
  const highest = Math.max(...card.histogram.map((bar) => bar.count), 1);
  return h(
    "section",
    { class: "feature-card", id: `feature-${card.feature}`, tabindex: -1, "aria-label": `feature ${card.feature}` },
    h("h3", {}, `Feature ${card.feature}`),
    (card.notes ?? []).map(({ label, text, by }) =>
      h("p", {}, h("b", {}, label), by && h("span", { class: "faint" }, ` ${by}`), text && ` ${text}`),
    ),
    card.explanation && explanationView(card.explanation),
    h(
      "p",
      { class: "note" },
      "Writes most like ",
      card.neighbors.map(({ feature, cosine }, i) => [i ? ", " : "", link(feature, carded), ` (${signed(cosine)})`]),
      `. Its row has the norm ${number(card.norm)}`,
      card.agreement === null ? "." : `, and a cosine of ${signed(card.agreement)} with what it reads.`,
      card.by_target && ` It writes to ${card.by_target.map(({ target, norm }) => `${target} ${number(norm)}`).join(", ")}.`,
    ),
    h(
      "div",
      { class: "feature-sides" },
      ["up", "down"].map((side) =>
        h(
          "div",
          {},
          h("h4", {}, side === "up" ? "raises" : "lowers"),
          chips(
            card[side].map(({ token }) => token),
            side === "up" ? 1 : -1,
          ),
        ),
      ),
      card.histogram.length > 0 && h(
        "div",
        {},
        h("h4", {}, "how active, where it is: by half octaves"),
        h(
          "div",
          { class: "feature-bars", role: "img", "aria-label": "histogram of activations" },
          card.histogram.map(({ low, count: n }) =>
            h("span", { style: { height: `${(100 * n) / highest}%` }, title: `from ${number(low)}: ${count(n)} tokens` }),
          ),
        ),
      ),
    ),
    card.examples.map(({ at, tokens, values }) =>
      h(
        "div",
        { class: "feature-example" },
        h("b", { class: "num" }, number(values[at])),
        h(
          "span",
          { class: "feature-text" },
          tokens.map((token, i) => shaded(token, values[i], most, i === at)),
        ),
      ),
    ),
  );
}
