// Which components: direct logit attribution as a map of the network, and the largest parts as a waterfall.

import { h, s } from "../kit/dom.js";
import { signed } from "../kit/numbers.js";
import { divergingLegend } from "../kit/legend.js";
import { diverging, painted } from "../kit/theme.js";
import { hideTip, showTip, tipTable, tipped } from "../kit/tooltip.js";
import { chooseHead } from "./attention.js";
import { figure, part } from "../kit/part.js";

const SHOWN = 14;

/** Every component: {name, value, layer, head} in the order of the computation. */
export function allComponents({ components }) {
  const { head, mlp, attn_bias: attnBias, embed, pos_embed: posEmbed, bias } = components;
  const all = [{ name: "embed", value: embed }];
  if (posEmbed !== null) all.push({ name: "pos_embed", value: posEmbed });
  head.forEach((row, layer) => {
    row.forEach((value, index) => all.push({ name: `L${layer}H${index}`, value, layer, head: index }));
    if (attnBias[layer] !== 0)
      all.push({ name: `attn bias ${layer}`, value: attnBias[layer], layer, kind: "attn_bias" });
    all.push({ name: `MLP ${layer}`, value: mlp[layer], layer, kind: "mlp" });
  });
  all.push({ name: "bias", value: bias });
  return all;
}

export function componentsView(doc) {
  const all = allComponents(doc);
  const { total, gap, entry } = doc.components;
  return part(
    "components",
    "Which components",
    [
      "Each component writes a vector to the stream; read through the final norm and the unembedding, its part at the explained position adds this much to the logit difference directly.",
      h("span", { class: "entry" }, `Primer ${entry}`),
    ],
    h(
      "div",
      { class: "split even" },
      figure(
        "The network",
        "Rows are layers, the last one on top. A filled dot marks a head whose attention is shown below.",
        componentMap(doc, all),
      ),
      figure(
        "The largest direct shares, summed",
        `What a component does through later ones is not in its share; the last section measures that. All ${all.length} components sum to ${signed(total)}; the logit difference is ${signed(doc.metric.value)}, ${gap === 0 ? "with no gap" : `a gap of ${signed(gap)}`}.`,
        waterfall(doc, all),
      ),
    ),
  );
}

function componentTip(doc, { name, value }) {
  const rows = [["direct attribution", signed(value)]];
  const measured = doc.ablations.rows.find((row) => row.name === name);
  rows.push([`${doc.ablations.kind}-ablation effect`, measured ? signed(measured.effect) : "not measured"]);
  return tipTable(
    name,
    rows,
    shown(doc, name) ? h("div", { class: "tip-more" }, "click: see what it attends to") : null,
  );
}

const shown = (doc, name) => doc.heads.some((head) => head.name === name && head.pattern);

function componentMap(doc, all) {
  const { n_layers: layers, n_heads: heads } = doc.model;
  const hasBias = all.some((c) => c.kind === "attn_bias");
  const left = 34,
    top = 18,
    gap = 10;
  const ch = layers <= 16 ? 24 : layers <= 36 ? 17 : 11;
  const cw = Math.max(11, Math.min(36, 400 / heads));
  const side = Math.max(46, cw);
  const mlpX = left + heads * cw + gap;
  const width = mlpX + side * (hasBias ? 2 : 1) + 1;
  const rowY = (layer) => top + (layers - 1 - layer) * ch;
  const whole = all.filter((c) => c.layer === undefined);
  const wholeTop = top + layers * ch + 12;
  const height = wholeTop + whole.length * 24;
  const most = all.reduce((m, c) => Math.max(m, Math.abs(c.value)), 1e-12);

  const place = (c) => {
    if (c.head !== undefined) return { x: left + c.head * cw, y: rowY(c.layer), width: cw, height: ch };
    if (c.kind)
      return { x: c.kind === "mlp" ? mlpX : mlpX + side, y: rowY(c.layer), width: side, height: ch };
    return {
      x: left,
      y: wholeTop + (whole.length - 1 - whole.indexOf(c)) * 24,
      width: width - left - 1,
      height: 24,
    };
  };
  const cells = all.map((c, index) => {
    const box = place(c);
    const rect = s("rect", {
      x: box.x,
      y: box.y,
      width: box.width - 1,
      height: box.height - 1,
      "data-i": index,
    });
    const wide = c.head === undefined && ch >= 15;
    const text = wide
      ? s(
          "text",
          {
            class: "cell-value",
            x: box.x + box.width / 2,
            y: box.y + box.height / 2 + 3.5,
            "text-anchor": "middle",
          },
          signed(c.value),
        )
      : null;
    const dot =
      c.head !== undefined && shown(doc, c.name)
        ? s("circle", {
            cx: box.x + (box.width - 1) / 2,
            cy: box.y + (box.height - 1) / 2,
            r: Math.min(3, ch / 5),
          })
        : null;
    return { c, box, rect, text, dot };
  });
  const cursor = s("rect", { class: "cursor", visibility: "hidden", width: 0, height: 0 });
  const axis = [
    Array.from({ length: layers }, (_, l) =>
      ch < 15 && l % 4
        ? null
        : s("text", { class: "axis", x: left - 7, y: rowY(l) + ch / 2 + 3, "text-anchor": "end" }, String(l)),
    ),
    Array.from({ length: heads }, (_, i) =>
      cw < 16 && i % 4
        ? null
        : s("text", { class: "axis", x: left + (i + 0.5) * cw, y: 11, "text-anchor": "middle" }, `H${i}`),
    ),
    s("text", { class: "axis", x: mlpX + side / 2, y: 11, "text-anchor": "middle" }, "MLP"),
    hasBias
      ? s("text", { class: "axis", x: mlpX + side * 1.5, y: 11, "text-anchor": "middle" }, "attn b")
      : null,
    whole.map((c) =>
      s(
        "text",
        { class: "axis", x: left - 7, y: place(c).y + 15, "text-anchor": "end" },
        { embed: "emb", pos_embed: "pos", bias: "bias" }[c.name],
      ),
    ),
  ];
  // A narrow window shrinks the map as far as it stays legible; from there on it scrolls.
  const svg = s(
    "svg",
    {
      class: "component-map",
      width,
      height,
      style: { "min-width": `${Math.round(0.7 * width)}px` },
      viewBox: `0 0 ${width} ${height}`,
      tabindex: 0,
      role: "application",
      "aria-roledescription": "heat map",
      "aria-label":
        "Direct attribution of every head, MLP, bias and embedding. Arrow keys move, Enter shows a head's attention.",
    },
    axis,
    cells.map(({ rect, text, dot }) => [rect, text, dot]),
    cursor,
  );
  painted(() =>
    cells.forEach(({ c, rect, text, dot }) => {
      const { fill, ink } = diverging(c.value / most);
      rect.setAttribute("fill", fill);
      text?.setAttribute("fill", ink);
      dot?.setAttribute("fill", ink);
    }),
  );
  const live = h("div", { class: "unseen", "aria-live": "polite" });
  moveOverCells(doc, svg, cells, cursor, live);
  const legend = divergingLegend();
  legend.name(signed(-most), signed(most));
  return h("div", {}, h("div", { class: "scroll-x" }, svg), legend.element, live);
}

function moveOverCells(doc, svg, cells, cursor, live) {
  let active = null;
  const go = (index, x, y) => {
    active = index;
    const { box, c } = cells[index];
    for (const side of ["x", "y", "width", "height"]) cursor.setAttribute(side, box[side] - 0.5);
    cursor.setAttribute("visibility", "visible");
    svg.style.setProperty("cursor", shown(doc, c.name) ? "pointer" : "default");
    showTip(componentTip(doc, c), x, y);
  };
  const leave = () => {
    cursor.setAttribute("visibility", "hidden");
    hideTip();
  };
  svg.addEventListener("pointermove", (event) => {
    const index = event.target.dataset?.i;
    if (index === undefined) return;
    go(Number(index), event.clientX, event.clientY);
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("click", () => active !== null && chooseHead(cells[active].c.name));
  svg.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && active !== null) return chooseHead(cells[active].c.name);
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return undefined;
    event.preventDefault();
    const next = active === null ? 0 : nearest(cells, active, way);
    const bounds = svg.getBoundingClientRect();
    const { box, c } = cells[next];
    const scale = bounds.width / svg.viewBox.baseVal.width;
    go(next, bounds.left + scale * (box.x + box.width), bounds.top + scale * (box.y + box.height));
    live.replaceChildren(`${c.name}: ${signed(c.value)}`);
    return undefined;
  });
}

// The next cell in a direction: the closest whose middle lies that way.
function nearest(cells, from, [dx, dy]) {
  const middle = ({ box }) => [box.x + box.width / 2, box.y + box.height / 2];
  const [x0, y0] = middle(cells[from]);
  let best = from,
    least = Infinity;
  cells.forEach((cell, index) => {
    const [x, y] = middle(cell);
    const along = (x - x0) * dx + (y - y0) * dy;
    const aside = Math.abs((x - x0) * dy) + Math.abs((y - y0) * dx);
    if (along > 1 && along + 3 * aside < least) [best, least] = [index, along + 3 * aside];
  });
  return best;
}

function waterfall(doc, all) {
  const sorted = [...all].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const shownOnes = sorted.slice(0, SHOWN);
  const rest = sorted.slice(SHOWN);
  let at = 0;
  const steps = shownOnes.map((c) => ({ ...c, from: at, to: (at += c.value) }));
  if (rest.length) {
    const value = rest.reduce((sum, c) => sum + c.value, 0);
    steps.push({ name: `${rest.length} others`, value, from: at, to: (at += value), rest: true });
  }
  steps.push({ name: "sum", value: at, from: 0, to: at, sum: true });
  const ends = steps.flatMap((step) => [step.from, step.to]);
  const low = Math.min(0, ...ends),
    high = Math.max(0, ...ends);
  const share = (value) => (100 * (value - low)) / (high - low || 1);
  return h(
    "ol",
    { class: "waterfall" },
    steps.map((step, index) => {
      const kind = step.sum ? "sum" : step.value < 0 ? "foil" : "target";
      const start = share(Math.min(step.from, step.to));
      const row = h(
        "li",
        {
          class: `${step.rest ? "rest" : ""} ${shown(doc, step.name) ? "link" : ""}`,
          tabindex: 0,
          on: { click: () => chooseHead(step.name) },
        },
        h("span", { class: "bar-name mono" }, step.name),
        h(
          "span",
          { class: "bar-track" },
          h("span", { class: "zero", style: { left: `${share(0)}%` } }),
          h("span", {
            class: `bar ${kind}`,
            style: {
              left: `${start}%`,
              width: `${Math.max(0.4, share(Math.max(step.from, step.to)) - start)}%`,
            },
          }),
          index < steps.length - 1
            ? h("span", { class: "joint", style: { left: `${share(step.to)}%` } })
            : null,
        ),
        h("span", { class: "bar-value" }, signed(step.value)),
      );
      return step.rest || step.sum ? row : tipped(row, () => componentTip(doc, step));
    }),
  );
}
