// Which features of a dictionary fire on a token, which words they write, and a slider for each that is chosen.

import { h, put, tokenText } from "../kit/dom.js";
import { number } from "../kit/numbers.js";
import { tokenFlow } from "../kit/token_flow.js";
import { sequential } from "../kit/theme.js";

export function featuresView(doc, { onPick, onTrace }) {
  const { tokens, active, counts, words, dictionary } = doc;
  const most = Math.max(1e-9, ...active.flat().map(({ activation }) => Math.abs(activation)));
  const list = h("ol", { class: "bars feature-list" });
  const title = h("h3", {});
  const flow = tokenFlow(tokens, {
    label: "The prompt, shaded by the largest activation on each token; choose a token to see its features",
    say: (i) => `${tokens[i].visible}: ${counts[i]} features`,
    onToken: (i, pinned) => pinned && i !== null && look(i),
  });
  flow.colour((i) => (active[i].length ? sequential(Math.abs(active[i][0].activation) / most) : null));

  function look(i) {
    flow.mark(i);
    put(title, `On ${tokens[i].visible}, token ${i}: ${counts[i]} of ${dictionary.features} features`);
    put(
      list,
      active[i].map(({ feature, activation }) => {
        const says = words[feature];
        return h(
          "li",
          {},
          h("span", { class: "bar-name mono" }, String(feature)),
          h("span", { class: "bar-track" }, h("span", { class: "bar seq", style: { width: `${(100 * Math.abs(activation)) / most}%` } })),
          h("span", { class: "bar-value" }, number(activation)),
          h(
            "span",
            { class: "feature-words" },
            says ? says.up.map((text) => h("span", { class: "chip bare" }, tokenText(text))) : "no words on the direct path",
          ),
          h(
            "button",
            { class: "pick", "aria-label": `turn feature ${feature}`, on: { click: () => onPick({ part: "feature", dictionary: dictionary.name, unit: feature }) } },
            "turn",
          ),
          h(
            "button",
            { class: "pick", "aria-label": `why? what drives feature ${feature}`, on: { click: () => onTrace({ part: "feature", dictionary: dictionary.name, unit: feature }, i) } },
            "why?",
          ),
        );
      }),
    );
  }
  look(tokens.length - 1);
  return h(
    "figure",
    {},
    h(
      "figcaption",
      {},
      h("h3", {}, `Features of ${dictionary.name} at ${dictionary.site}`),
      h("p", { class: "note" }, "Beside each feature the tokens whose logits it raises most on the direct path. “Turn” takes it away and gives it a slider; activations are as they are read, before they are turned."),
    ),
    flow.element,
    title,
    list,
  );
}
