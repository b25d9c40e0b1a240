// The explorer: a prompt, what comes next, and questions about it. Everything shown is an answer of the server.

import { h, put } from "../kit/dom.js";
import { masthead } from "../kit/masthead.js";
import { size } from "../kit/numbers.js";
import { mountTooltip } from "../kit/tooltip.js";
import { ask } from "../explorer/ask.js";
import { changesView, without } from "../explorer/changes.js";
import { effectsView } from "../explorer/effects.js";
import { predictionView } from "../explorer/prediction.js";
import { contrast, keepState, readState } from "../explorer/state.js";

const PAUSE = 180; // milliseconds after a keystroke
const WITH_COUNTERFACTUAL = new Set(["story", "effects"]);

const { model, questions } = JSON.parse(document.getElementById("document").textContent);
let state = readState();
let quick = null;
let slow = null;
let timer = 0;

const field = (name, label, hint, area = false) => {
  const input = h(area ? "textarea" : "input", {
    id: `field-${name}`,
    placeholder: hint,
    rows: area ? 3 : null,
    spellcheck: "false",
    autocomplete: "off",
    on: { input: () => (name === "prompt" ? edited({ prompt: input.value, target: "", foil: "" }) : edited({ [name]: input.value })) },
  });
  return { name, input, element: h("label", { class: "field", for: `field-${name}` }, h("span", {}, label), input) };
};
const fields = [
  field("prompt", "Prompt", "Type a text; the model goes on.", true),
  field("target", "Answer to explain", "the likeliest"),
  field("foil", "Set against", "the next likeliest"),
  field("corrupt", "Counterfactual", "the same text with another answer; found by itself for the story", true),
];
const problem = h("p", { class: "warn", role: "alert" });
const next = predictionView({ onTarget: (text) => edited({ target: text }), onFoil: (text) => edited({ foil: text }) });
const changes = changesView({
  model,
  onChange: (change, { redraw = true } = {}) => {
    state.changes = change(state.changes);
    if (redraw) changes.draw(state.changes);
    edited({});
  },
});
const asked = h("div", { class: "asked", "aria-live": "polite" });
const buttons = Object.entries(questions)
  .filter(([name]) => name !== "prediction")
  .map(([name, title]) => h("button", { "data-name": name, on: { click: () => show(name) } }, title));

function edited(part) {
  state = { ...state, ...part };
  for (const { name, input } of fields) if (input.value !== state[name]) input.value = state[name];
  keepState(state);
  clearTimeout(timer);
  timer = setTimeout(predict, PAUSE);
}

async function predict() {
  quick?.abort();
  if (!state.prompt) return;
  const mine = (quick = new AbortController());
  try {
    const { document } = await ask("prediction", { prompt: state.prompt, changes: state.changes }, { signal: mine.signal });
    put(problem);
    next.draw(document, state);
  } catch (error) {
    if (error.name !== "AbortError") put(problem, error.message);
  }
}

async function show(name) {
  slow?.abort();
  const mine = (slow = new AbortController());
  state.view = name;
  keepState(state);
  for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.name === name);
  const line = h("span", {}, "waiting …");
  const bar = h("progress", {});
  put(asked, h("p", { class: "running" }, line, bar, h("button", { on: { click: () => mine.abort() } }, "cancel")));
  const form = contrast(state);
  if (state.corrupt && WITH_COUNTERFACTUAL.has(name)) form.corrupt = state.corrupt;
  const onProgress = ({ state: stage, what, n, total }) => {
    put(line, stage === "waiting" ? "waiting for others’ questions …" : `${what || "working"} …`);
    if (total) Object.assign(bar, { max: total, value: n });
    else bar.removeAttribute("value");
  };
  try {
    const { document, job } = await ask(name, form, { signal: mine.signal, onProgress });
    if (document.kind === "caseback.effects") {
      put(asked, effectsView(document, { onPick: (part) => takeAway(part) }));
    } else {
      const address = `/api/jobs/${job}/page`;
      put(
        asked,
        h("p", { class: "note" }, h("a", { href: address, target: "_blank", rel: "noopener" }, "Open this page by itself"), " to save or share it."),
        h("iframe", { src: address, title: questions[name], sandbox: "allow-scripts allow-downloads" }),
      );
    }
  } catch (error) {
    put(asked, h("p", { class: error.name === "AbortError" ? "note" : "warn", role: "alert" }, error.name === "AbortError" ? "Canceled." : error.message));
  }
}

function takeAway(part) {
  const change = { ...part, factor: 0 };
  state.changes = [...without(state.changes, change), change];
  changes.draw(state.changes);
  edited({});
}

mountTooltip();
document.getElementById("page").append(
  h(
    "div",
    { class: "page explorer" },
    masthead(model.name, `${model.family}, ${model.n_layers} layers, ${model.n_heads} heads, ${size(model.parameters)} parameters`),
    h("h1", { class: "unseen" }, `Explore ${model.name}`),
    h("section", { class: "split wide-left asking" }, h("div", {}, fields.map(({ element }) => element)), changes.element),
    problem,
    next.element,
    h("nav", { class: "questions", "aria-label": "Questions" }, buttons),
    asked,
  ),
);
changes.draw(state.changes);
edited({});
document.documentElement.dataset.ready = "";
if (state.view in questions && state.prompt) show(state.view);
