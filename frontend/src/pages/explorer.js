// The explorer: a prompt, what comes next, and questions about it. Everything shown is an answer of the server.

import { h, put } from "../kit/dom.js";
import { documentFor } from "../kit/document.js";
import { masthead } from "../kit/masthead.js";
import { size } from "../kit/numbers.js";
import { mountTooltip } from "../kit/tooltip.js";
import { warningList } from "../kit/warnings.js";
import { ask, drawn as drawnOnPage } from "../explorer/ask.js";
import { begun, changesView, without } from "../explorer/changes.js";
import { predictionView } from "../explorer/prediction.js";
import { unitText } from "../explorer/drivers.js";
import { contrast, keepState, noName, readState } from "../explorer/state.js";
import { controlsOf, framed, viewsOf } from "../explorer/views.js";

const PAUSE = 180; // milliseconds after a keystroke

documentFor(document.getElementById("page")).then((start) => start && explore(start));

function explore({ model, questions, shelf }) {
  const link = readState();
  let { state } = link;
  let quick = null;
  let slow = null;
  let timer = 0;
  let drawn = ""; // the form of the answer that stands below

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
  const warnings = h("div", {});
  const linked = h("p", { class: "warn", role: "alert" }, link.problems.join(" "));
  const next = predictionView({ onTarget: (text) => edited({ target: text }), onFoil: (text) => edited({ foil: text }) });
  const changes = changesView({
    model,
    shelf,
    onChange: (change, { redraw = true } = {}) => {
      state.changes = change(state.changes);
      if (redraw) changes.draw(state.changes);
      edited({});
    },
    onTrace: trace,
  });
  const views = viewsOf({ model, shelf, now: () => state, edited, onPick: takeAway, onTrace: trace, again: (part) => { edited(part, { ask: false }); show(state.view); } });
  const controls = h("div", { class: "controls" });
  const answer = h("div", { "aria-live": "polite" });
  const asked = h("div", { class: "asked" }, controls, answer);
  const offered = Object.entries(questions).filter(([name]) => name !== "prediction" && (name !== "features" || shelf.dictionaries.count));
  const buttons = offered.map(([name, title]) => h("button", { "data-name": name, on: { click: () => show(name) } }, title));

  function edited(part, { ask: asking = true } = {}) {
    state = { ...state, ...part };
    for (const { name, input } of fields) if (input.value !== state[name]) input.value = state[name];
    keepState(state);
    if (!asking) return;
    clearTimeout(timer);
    timer = setTimeout(predict, PAUSE);
  }

  async function predict() {
    quick?.abort();
    const view = views[state.view];
    if (view?.live && drawn && drawn !== JSON.stringify(view.form(state))) show(state.view);
    if (!state.prompt) return;
    const mine = (quick = new AbortController());
    try {
      const { document } = await ask("prediction", { prompt: state.prompt, changes: state.changes }, { signal: mine.signal });
      put(problem);
      put(warnings, warningList(document));
      next.draw(document, state);
    } catch (error) {
      if (error.name !== "AbortError") put(problem, error.message);
    }
  }

  async function show(name) {
    slow?.abort();
    const mine = (slow = new AbortController());
    const view = views[name] ?? {};
    if (state.view !== name || !controls.childElementCount) controlsOf(controls, view);
    state.view = name;
    view.begin?.();
    keepState(state);
    drawn = "";
    for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.name === name);
    const lacking = view.lacks?.(state) || (state.prompt || view.alone ? "" : "Type a prompt first.");
    if (lacking) return put(answer, h("p", { class: "note" }, lacking));
    const line = h("span", {}, "waiting …");
    const bar = h("progress", {});
    const running = h("p", { class: "running" }, line, bar, h("button", { on: { click: () => mine.abort() } }, "cancel"));
    const form = (view.form ?? contrast)(state);
    const onProgress = ({ state: stage, what, n, total }) => {
      if (!running.isConnected) put(answer, running);
      put(line, stage === "waiting" ? "waiting for others’ questions …" : `${what || "working"} …`);
      if (total) Object.assign(bar, { max: total, value: n });
      else bar.removeAttribute("value");
    };
    if (!view.live) put(answer, running); // what follows the changes stands until it is drawn anew
    try {
      const { document, job } = await ask(name, form, { signal: mine.signal, onProgress });
      const doc = view.onPage ? await drawnOnPage(job) : document;
      if (mine !== slow) return;
      // a page in a frame has its own
      put(answer, view.draw ? [warningList(document), view.draw(doc, job)] : framed(job, questions[name]));
      drawn = JSON.stringify(form);
    } catch (error) {
      if (mine !== slow) return;
      const canceled = error.name === "AbortError";
      put(answer, h("p", { class: canceled ? "note" : "warn", role: "alert" }, canceled ? "Canceled." : error.message));
      drawn = canceled ? "" : JSON.stringify(form);
    }
  }

  function takeAway(part) {
    const change = begun(part);
    state.changes = [...without(state.changes, change), change];
    changes.draw(state.changes);
    edited({});
  }

  /** Asks what drives a unit, at a place that is given or was chosen before. */
  function trace(part, pos = null) {
    edited({ unit: unitText(part), key: "", ...(pos === null ? {} : { pos: String(pos) }) }, { ask: false });
    show("drivers");
    asked.scrollIntoView({ block: "nearest" });
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
      warnings,
      linked,
      next.element,
      h("nav", { class: "questions", "aria-label": "Questions" }, buttons),
      asked,
    ),
  );
  changes.draw(state.changes);
  edited({});
  document.documentElement.dataset.ready = "";
  const view = noName("question", state.view, offered.map(([name]) => name));
  if (view) put(answer, h("p", { class: "warn", role: "alert" }, view));
  else if (state.view && (state.prompt || views[state.view]?.alone)) show(state.view);
  // a job whose page goes away is not wanted any more; another link in the same tab leads somewhere else
  addEventListener("pagehide", () => slow?.abort());
  addEventListener("hashchange", () => location.reload());
}
