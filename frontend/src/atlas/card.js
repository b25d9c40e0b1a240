// A unit's card: for each kind that says something of it the score beside its control and what a label needs, and what
// taking the unit out did beside units like it.

import { h, s } from "../kit/dom.js";
import { number, percent, signed } from "../kit/numbers.js";

const WIDE = 100;
const TALL = 12;
const HEADS = ["kind", "verdict", "score", "control", "a label needs", "", "effect", "like units"];

/** `rows` are the unit's, the strongest first; those far below a label are left out; `more` its words and windows. */
export function card(name, rows, more) {
  const shown = rows.filter(({ labeled, proof, score, bound }) => labeled || proof || score > bound / 2);
  const labels = rows.filter(({ labeled }) => labeled).map(({ kind }) => kind.kind);
  return h(
    "section",
    { class: "unit-card", "aria-label": name, tabindex: -1 },
    h("h3", {}, name),
    h("p", { class: "note" }, labels.length ? `Labels: ${labels.join(", ")}.` : "No kind has it labeled."),
    shown.length
      ? h(
          "div",
          { class: "sideways" },
          h("table", {}, h("thead", {}, h("tr", {}, HEADS.map((word) => h("th", { scope: "col" }, word)))), h("tbody", {}, shown.map(line))),
        )
      : h("p", { class: "note" }, "Every score of it is below half of what a label needs."),
    more ? [wordsOf(more.words), windowsOf(more.windows, name.includes("H"))] : null,
  );
}

const ENDS = ["reads", "writes", "lowers"];

// what its weights read and write, a line for each direction
function wordsOf(lines) {
  if (!lines.length) return null;
  const names = ENDS.filter((name) => lines[0][name]);
  const cells = (line) => names.map((name) => h("td", { class: "words" }, line[name].map((text) => h("code", {}, shown(text)))));
  return h(
    "div",
    { class: "unit-words" },
    h("h4", {}, "Words of its weights"),
    h(
      "div",
      { class: "sideways" },
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, lines.map((line) => h("tr", {}, cells(line)))),
      ),
    ),
  );
}

// windows of text: a neuron's activation, or a head's attention from the framed token
function windowsOf(windows, ofHead) {
  if (!windows.length) return null;
  const what = ofHead ? "Attention from the framed token, where the head writes most." : "Activation, where the neuron is largest.";
  return h(
    "div",
    { class: "unit-windows" },
    h("h4", {}, "Windows of text"),
    h("p", { class: "note" }, what),
    windows.map((one) => {
      const tokens = one.tokens.map((text, i) => {
        const token = h("span", { class: i === one.at ? "token at" : "token", title: `${one.share[i]} %` }, shown(text));
        token.style.setProperty("--level", Math.max(0, one.share[i] / 100).toFixed(2));
        return token;
      });
      return h("p", { class: "window" }, tokens, h("span", { class: "num" }, ` ${ofHead ? "size of the write" : "activation"} ${number(one.value)}`));
    }),
  );
}

const shown = (text) => text.replace(/\n/g, "⏎").replace(/\t/g, "⇥");

function line(row) {
  const { kind, score, control, bound, labeled, proof } = row;
  const { effect, draw = {} } = proof ?? {};
  const like = draw["matched units"];
  const of = draw.class ? ` of ${draw.class}` : "";
  const restores = draw.restores === undefined ? null : `brings back ${percent(draw.restores)} of what all with the label carry`;
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, kind.kind, of),
    h("td", { class: "words" }, proof ? proof.grade : labeled ? "seen" : "no label"),
    h("td", {}, score === null ? "–" : number(score)),
    h("td", {}, control === null || control === undefined ? "–" : number(control)),
    h("td", {}, number(bound)),
    h("td", {}, bars(score ?? 0, control ?? 0, bound)),
    h("td", { title: restores }, effect === undefined || effect === null ? "" : `${signed(effect)} ${proof.unit}`),
    h("td", {}, like === undefined || like === null ? "" : signed(like)),
  );
}

// the score as a bar, the control as a paler one below it, a line at what a label needs
function bars(score, control, bound) {
  const most = Math.max(score, control, bound, 1e-30);
  const long = (value) => ((WIDE * Math.max(0, value)) / most).toFixed(1);
  const words = `score ${number(score)}, control ${number(control)}, a label needs ${number(bound)}`;
  return s(
    "svg",
    { class: "bars", viewBox: `0 0 ${WIDE} ${TALL}`, width: WIDE, height: TALL, role: "img", "aria-label": words },
    s("rect", { class: "score", width: long(score), height: 7 }),
    s("rect", { class: "control", y: 8, width: long(control), height: 4 }),
    s("line", { x1: long(bound), x2: long(bound), y1: 0, y2: TALL }),
  );
}
