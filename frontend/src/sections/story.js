// The causal story: its sentences, the prompt beside its counterfactual, the way of the answer, and whether it held.

import { h, put, s, tokenText } from "../kit/dom.js";
import { signed } from "../kit/numbers.js";
import { figure, part } from "../kit/part.js";
import { hideTip, showTip, tipTable } from "../kit/tooltip.js";
import { verdictOf } from "./lead.js";
import { flowLayout } from "./story_layout.js";

/** The section, or nothing where no story was asked for. */
export function storyView(doc) {
  const { story } = doc;
  if (!story) return null;
  const [first, ...rest] = story.sentences;
  const measured = `Measured at depth “${story.depth}”, as much work as ${Math.round(story.forwards).toLocaleString("en")} plain forwards of the prompt.`;
  return part(
    "story",
    "What happened",
    first.text,
    rest.length ? h("p", { class: "story" }, rest.map(({ text }) => [h("span", {}, text), " "])) : null,
    story.counterfactual ? versions(doc) : null,
    story.hops.length
      ? figure(
          "The way of the answer",
          "Bars are places of the stream that bring the answer back when they alone are as in the prompt, as wide as what they bring back. Dots are heads (and MLPs, at the right) that carry it or work against it when exchanged alone, with a line from where a head looks.",
          flow(doc),
        )
      : null,
    story.checks.length ? checks(story) : null,
    h("p", { class: "note" }, measured),
  );
}

function versions({ tokens, story }) {
  const one = story.counterfactual;
  const differs = one.tokens.map((token, i) => token.id !== tokens[i].id);
  const line = (name, said, value) =>
    h(
      "div",
      { class: "pair-line" },
      h("span", { class: "pair-name" }, name),
      h(
        "span",
        { class: "pair-tokens", dir: "auto" },
        said.map((token, i) => h("span", { class: differs[i] ? "chip differs" : "chip bare" }, tokenText(token.visible))),
      ),
      h("span", { class: "num" }, signed(value)),
    );
  const others = story.runners_up.map(({ changes }) =>
    changes.map((change) => `${change.old} → ${change.new}`).join(", "),
  );
  return h(
    "div",
    { class: "pair" },
    line("prompt", tokens, one.clean),
    line("instead", one.tokens, one.corrupt),
    others.length ? h("p", { class: "note" }, `Next best: ${others.join("; ")}`) : null,
  );
}

const NARROWEST = 280;

function flow(doc) {
  const box = h("div", { class: "story-flow" });
  let drawn = 0;
  const draw = () => {
    const width = Math.max(NARROWEST, Math.round(box.clientWidth));
    if (width === drawn) return;
    drawn = width;
    put(box, picture(doc, width));
  };
  new ResizeObserver(draw).observe(box);
  return box;
}

function picture(doc, width) {
  const { tokens, story } = doc;
  const at = flowLayout(story, tokens.length, width);
  const label = `The way of the answer. ${story.sentences.map(({ text }) => text).join(" ")}`;
  const view = s("svg", { width, height: at.height, viewBox: `0 0 ${width} ${at.height}`, role: "img", "aria-label": label });
  for (const layer of at.marks) {
    view.append(
      s("line", { class: "rule", x1: at.left, x2: width - 4, y1: at.y(layer), y2: at.y(layer) }),
      s("text", { class: "axis", x: at.left - 6, y: at.y(layer) + 4, "text-anchor": "end" }, String(layer)),
    );
  }
  for (const hop of story.hops) {
    const thick = 3 + 9 * Math.min(1, Math.max(0, hop.share));
    const top = at.y(hop.last) - at.step / 2;
    const bar = s("rect", { class: "hop", x: at.x(hop.pos) - thick / 2, width: thick, y: top, height: at.y(hop.first) + at.step / 2 - top, rx: 3 });
    view.append(tipped(bar, tokens[hop.pos].visible, [["brings back", signed(hop.share)], ["before layers", `${hop.first}–${hop.last}`]]));
  }
  const dots = [];
  for (const one of story.parts) {
    const side = one.share > 0 ? "target" : "foil";
    const x = one.at === null ? at.beside : at.x(one.at);
    const y = at.y(one.layer) - at.step / 2;
    for (const look of one.looks) {
      if (look.pos === one.at) continue;
      view.append(
        s("path", { class: `look ${side}`, d: `M${at.x(look.pos)},${y + at.step / 2} Q${(at.x(look.pos) + x) / 2},${y} ${x},${y}`, "stroke-width": 0.8 + 2.4 * look.weight }),
      );
    }
    const rows = [["denoising", signed(one.denoising)], ["noising", signed(one.noising)]];
    if (one.direct !== null) rows.push(["direct", signed(one.direct)]);
    if (one.writes.length) rows.push(["writes", one.writes.map((word) => word.visible).join(" ")]);
    dots.push(tipped(s("circle", { class: `dot ${side}`, cx: x, cy: y, r: 3 + 5 * Math.sqrt(Math.min(1, Math.abs(one.share))) }), one.name, rows));
  }
  view.append(...dots);
  for (const { x, y, text } of at.names) view.append(s("text", { class: "name", x, y, "text-anchor": "end" }, text));
  for (const pos of at.shown) {
    const changed = story.counterfactual.tokens[pos].id !== tokens[pos].id;
    const turn = `rotate(-38 ${at.x(pos)} ${at.foot})`;
    const said = tokens[pos].visible;
    view.append(
      s("text", { class: changed ? "token changed" : "token", x: at.x(pos), y: at.foot, "text-anchor": "end", transform: turn }, said.length > 14 ? `${said.slice(0, 13)}…` : said),
    );
  }
  return view;
}

function tipped(element, title, rows) {
  element.addEventListener("pointermove", (event) => showTip(tipTable(title, rows), event.clientX, event.clientY));
  element.addEventListener("pointerleave", hideTip);
  return element;
}

function checks({ checks: listed }) {
  return figure(
    "Does it hold elsewhere?",
    null,
    h(
      "ul",
      { class: "story-checks" },
      listed.map((check) =>
        h(
          "li",
          {},
          h("b", { class: verdictOf(check) }, verdictOf(check)),
          h("span", {}, `${check.name}: ${check.value.toFixed(2)}`),
          h("span", { class: "note" }, check.detail),
        ),
      ),
    ),
  );
}
