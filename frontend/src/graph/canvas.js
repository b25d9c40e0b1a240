// The graph on three canvases, one above the other: edges, nodes with names, and what is looked at. A pointer that moves
// repaints only the last, a slider the others, with as few strokes as there are colors and widths.

import { h } from "../kit/dom.js";
import { painted, variable } from "../kit/theme.js";
import { hideTip, showTip } from "../kit/tooltip.js";
import { layout } from "./layout.js";

const WIDTHS = [0.5, 0.7, 1, 1.5, 2.2, 3.2]; // of edges, by strength
const OPACITY = [0.1, 0.16, 0.26, 0.42, 0.62, 0.85];
const NEAR = 11; // pixels within which a node is meant, and an edge
const NEAR_EDGE = 4;
const EDGE = 40; // of the window, within which a node is out of sight
const SIGNS = [0, -1, 1];
const COLORS = "target foil seq ink ink-2 ink-3 paper".split(" ");

const AT_ONCE = [Infinity, Infinity, Infinity, 16, 16, 16]; // in a stroke: wide ones that cross are slow to fill together
const IN_MOTION = 4000; // edges drawn while a slider moves; the faintest follow when it rests
const REST = 140; // milliseconds
const LEGIBLE = 34; // pixels of a name that is cut off

/**
 * options: graph, tokens [{visible}], label(i) → text, tip(i) and edgeTip(e) → nodes,
 *   onSelect(i | null), onLine(e): an edge is chosen, onPin(i), say(i) → text read aloud
 * Returns {element, draw(drawn, {selected, pinned}, inMotion), lead(i), tell()}.
 */
export function graphCanvas({ graph, tokens, label, tip, edgeTip, say, onSelect, onLine, onPin }) {
  const layers = ["edges", "nodes", "over"].map((name) => h("canvas", { class: `graph-${name}`, "aria-hidden": "true" }));
  const [edgeCanvas, , overCanvas] = layers;
  const stack = h("div", { class: "graph-stack" }, layers);
  const scroller = h(
    "div",
    { class: "graph-scroll", tabindex: 0, role: "application", "aria-roledescription": "graph", "aria-label": "The graph, layers upwards and tokens from left to right. Up and down go along the heaviest edges, left and right along the row, p pins, Escape lets go." },
    stack,
  );
  const live = h("div", { class: "unseen", "aria-live": "polite" });
  const element = h("div", { class: "graph-view" }, scroller, live);
  let drawn = null,
    laid = null,
    state = { selected: null, line: null, pinned: new Set() },
    hovered = null,
    hoveredEdge = null,
    queued = false,
    resting = 0,
    colors = {};
  const most = Math.max(...graph.nodes.influence, 1e-30);
  // Of shares that a stream takes over nearly whole, those from another position are what there is to see.
  const step = graph.edges.source.map((source, e) => {
    const level = Math.min(WIDTHS.length - 1, Math.floor(WIDTHS.length * Math.sqrt(graph.strength[e])));
    const moves = !graph.signed && graph.nodes.pos[source] !== graph.nodes.pos[graph.edges.target[e]];
    return moves ? Math.min(WIDTHS.length - 1, level + 2) : level;
  });

  function prepare() {
    const room = scroller.clientWidth || 900;
    laid = layout(graph, drawn, tokens.length, room);
    const ratio = devicePixelRatio || 1;
    stack.style.setProperty("width", `${laid.width}px`);
    stack.style.setProperty("height", `${laid.height}px`);
    for (const canvas of layers) {
      canvas.width = Math.round(laid.width * ratio);
      canvas.height = Math.round(laid.height * ratio);
      canvas.style.setProperty("width", `${laid.width}px`);
      canvas.style.setProperty("height", `${laid.height}px`);
      canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    }
  }

  function curve(path, e) {
    const { x, y } = laid;
    const [from, to] = [graph.edges.source[e], graph.edges.target[e]];
    const middle = (y[from] + y[to]) / 2;
    path.moveTo(x[from], y[from]);
    path.bezierCurveTo(x[from], middle, x[to], middle, x[to], y[to]);
  }

  const stroke = (sign) => (sign === 0 ? colors.seq : sign < 0 ? colors.foil : colors.target);

  /** Draws the faintest first; in motion only as many of the strongest as are drawn at once. Returns whether that is all. */
  function paintEdges(inMotion) {
    const context = edgeCanvas.getContext("2d");
    context.clearRect(0, 0, laid.width, laid.height);
    const alike = WIDTHS.map(() => new Map(SIGNS.map((sign) => [sign, []])));
    for (const e of drawn.edges) alike[step[e]].get(graph.signs[e]).push(e);
    const sizes = alike.map((bySign) => [...bySign.values()].reduce((sum, { length }) => sum + length, 0));
    let from = 0;
    while (inMotion && from < WIDTHS.length - 1 && sizes.slice(from).reduce((a, b) => a + b, 0) > IN_MOTION) from++;
    for (let at = from; at < WIDTHS.length; at++) {
      context.globalAlpha = OPACITY[at];
      context.lineWidth = WIDTHS[at];
      for (const [sign, listed] of alike[at]) {
        context.strokeStyle = stroke(sign);
        for (let start = 0; start < listed.length; start += AT_ONCE[at]) {
          const path = new Path2D();
          for (const e of listed.slice(start, start + AT_ONCE[at])) curve(path, e);
          context.stroke(path);
        }
      }
    }
    return from === 0;
  }

  const isSquare = (kind) => kind === "embed" || kind === "pos_embed" || kind === "mlp" || kind === "logits" || kind === "attention" || kind === "head";

  function shape(context, i, grow = 0) {
    const kind = graph.nodes.kind[i];
    const { x, y, pitch } = laid;
    const least = kind === "stream_mid" ? 0.16 : 0.24;
    const size = pitch * (kind === "logits" ? 0.5 : least + (kind === "stream_mid" ? 0.1 : 0.24) * Math.sqrt(graph.nodes.influence[i] / most)) + grow;
    context.beginPath();
    if (kind === "error" || kind === "bias") {
      context.moveTo(x[i], y[i] - 1.25 * size);
      context.lineTo(x[i] + 1.25 * size, y[i]);
      context.lineTo(x[i], y[i] + 1.25 * size);
      context.lineTo(x[i] - 1.25 * size, y[i]);
      context.closePath();
    } else if (isSquare(kind)) context.rect(x[i] - size, y[i] - size, 2 * size, 2 * size);
    else context.arc(x[i], y[i], size, 0, 2 * Math.PI);
    return size;
  }

  function paintNode(context, i) {
    const kind = graph.nodes.kind[i];
    const value = graph.effects[i];
    const size = shape(context, i);
    const plain = kind === "error" || kind === "bias";
    const color = plain ? colors["ink-3"] : kind === "embed" || kind === "pos_embed" ? colors.ink : !graph.signed && kind !== "logits" ? colors.seq : value === 0 ? colors["ink-3"] : stroke(value < 0 ? -1 : 1);
    context.globalAlpha = drawn.reached[i] || state.pinned.has(i) ? 1 : 0.28;
    context.fillStyle = plain || kind === "mlp" || kind === "stream_mid" ? colors.paper : color;
    context.strokeStyle = color;
    context.lineWidth = 1.1;
    context.fill();
    context.stroke();
    if (kind === "error") {
      // hatched: what no feature accounts for
      context.save();
      context.clip();
      context.lineWidth = 0.8;
      context.beginPath();
      for (let at = -2 * size; at < 2.5 * size; at += 2.4) {
        context.moveTo(laid.x[i] + at - 1.25 * size, laid.y[i] + 1.25 * size);
        context.lineTo(laid.x[i] + at + 1.25 * size, laid.y[i] - 1.25 * size);
      }
      context.stroke();
      context.restore();
    }
    if (state.pinned.has(i)) {
      shape(context, i, 3);
      context.strokeStyle = colors.ink;
      context.lineWidth = 1.6;
      context.stroke();
    }
  }

  function clipped(context, text, room) {
    if (context.measureText(text).width <= room) return text;
    let end = Math.max(1, Math.floor((text.length * room) / context.measureText(text).width));
    while (end > 1 && context.measureText(`${text.slice(0, end)}…`).width > room) end--;
    return `${text.slice(0, end)}…`;
  }

  function paintNodes() {
    const context = layers[1].getContext("2d");
    context.clearRect(0, 0, laid.width, laid.height);
    context.globalAlpha = 1;
    const sans = variable("--sans");
    const mono = variable("--mono");
    context.textBaseline = "middle";
    context.font = `11px ${sans}`;
    context.fillStyle = colors["ink-3"];
    context.textAlign = "right";
    const last = laid.rows.length ? laid.rows[laid.rows.length - 1] : null;
    const every = Math.ceil(14 / Math.max(1, laid.rows.length > 1 ? laid.rows[0].y - laid.rows[1].y : 14));
    laid.rows.forEach(({ layer, y }, r) => {
      const name = layer < 0 ? "embed" : last && layer === last.layer && graph.sinks.some((i) => graph.nodes.layer[i] === layer && graph.nodes.kind[i] === "logits") ? "logits" : String(layer);
      if (r % every === 0 || r === laid.rows.length - 1) context.fillText(name, 38, y);
    });
    // the tokens, upright where they have the room
    context.fillStyle = colors["ink-2"];
    context.font = `12px ${mono}`;
    for (const { pos, x, width } of laid.columns) {
      const text = pos < 0 ? "all" : tokens[pos].visible;
      context.save();
      context.translate(x, laid.foot + 10);
      if (context.measureText(text).width > width - 6) {
        context.rotate(-Math.PI / 3);
        context.textAlign = "right";
        context.fillText(clipped(context, text, 66), 0, 0);
      } else {
        context.textAlign = "center";
        context.fillText(text, 0, 4);
      }
      context.restore();
    }
    const rowOf = new Map();
    for (let i = 0; i < graph.size; i++) {
      if (!drawn.nodes[i]) continue;
      paintNode(context, i);
      const key = `${laid.y[i]} ${graph.nodes.pos[i]}`;
      rowOf.set(key, (rowOf.get(key) ?? 0) + 1);
    }
    // names where a node stands alone in its line, on the side that is free
    context.font = `${Math.max(10, Math.min(11, laid.pitch))}px ${sans}`;
    context.textAlign = "left";
    context.fillStyle = colors["ink-2"];
    context.globalAlpha = 1;
    const logits = [...drawn.nodes.keys()].filter((i) => drawn.nodes[i] && graph.nodes.kind[i] === "logits");
    for (const i of logits) {
      context.save();
      context.translate(laid.x[i], laid.y[i] - laid.pitch * 0.75);
      context.font = `12px ${mono}`;
      context.fillStyle = colors.ink;
      context.textAlign = "right";
      if (logits.length > 1) context.rotate(Math.PI / 4);
      context.fillText(clipped(context, label(i), logits.length > 1 ? 66 : 150), logits.length > 1 ? 0 : laid.pitch, logits.length > 1 ? 0 : -5);
      context.restore();
    }
    const widthOf = new Map(laid.columns.map(({ pos, width }) => [pos, width]));
    for (let i = 0; i < graph.size; i++) {
      if (!drawn.reached[i] || !["stream", "feature", "neuron"].includes(graph.nodes.kind[i])) continue;
      if (rowOf.get(`${laid.y[i]} ${graph.nodes.pos[i]}`) > 1) continue;
      const room = widthOf.get(graph.nodes.pos[i] ?? -1) / 2 - laid.pitch * 0.5;
      const text = label(i);
      if (!text || (room < LEGIBLE && context.measureText(text).width > room)) continue;
      context.fillText(clipped(context, text, room), laid.x[i] + laid.pitch * 0.65, laid.y[i]);
    }
  }

  function paintOver() {
    const context = overCanvas.getContext("2d");
    context.clearRect(0, 0, laid.width, laid.height);
    const chosen = state.selected !== null && drawn.nodes[state.selected] ? state.selected : null;
    const looked = hovered ?? chosen;
    const line = hoveredEdge ?? state.line;
    edgeCanvas.classList.toggle("far", looked !== null || line !== null);
    const listed = looked === null ? (line === null ? [] : [line]) : drawn.edges.filter((e) => graph.edges.source[e] === looked || graph.edges.target[e] === looked);
    const ends = new Set();
    for (const e of listed) {
      context.globalAlpha = 0.95;
      context.lineWidth = WIDTHS[step[e]] + 0.5;
      context.strokeStyle = stroke(graph.signs[e]);
      const path = new Path2D();
      curve(path, e);
      context.stroke(path);
      ends.add(graph.edges.source[e]).add(graph.edges.target[e]);
    }
    context.globalAlpha = 1;
    for (const i of ends) if (drawn.nodes[i]) paintNode(context, i);
    for (const i of new Set([hovered, chosen])) {
      if (i === null || Number.isNaN(laid.x[i])) continue;
      paintNode(context, i);
      shape(context, i, 4);
      context.strokeStyle = colors.seq;
      context.lineWidth = 2.4;
      context.stroke();
    }
  }

  const queue = () => {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => {
      queued = false;
      paintOver();
    });
  };

  function paint(inMotion = false) {
    clearTimeout(resting);
    colors = Object.fromEntries(COLORS.map((name) => [name, variable(`--${name}`)]));
    if (!drawn || !scroller.isConnected) return;
    prepare();
    if (!paintEdges(inMotion)) resting = setTimeout(() => paintEdges(false), REST);
    paintNodes();
    paintOver();
  }

  function nodeAt(px, py) {
    let [best, nearest] = [null, NEAR * NEAR];
    for (let i = 0; i < graph.size; i++) {
      if (!drawn.nodes[i]) continue;
      const away = (laid.x[i] - px) ** 2 + (laid.y[i] - py) ** 2;
      if (away < nearest) [best, nearest] = [i, away];
    }
    return best;
  }

  function edgeAt(px, py) {
    const { x, y } = laid;
    const listed = state.selected === null ? drawn.edges : drawn.edges.filter((e) => graph.edges.source[e] === state.selected || graph.edges.target[e] === state.selected);
    let [best, nearest] = [null, NEAR_EDGE];
    for (const e of listed) {
      const [from, to] = [graph.edges.source[e], graph.edges.target[e]];
      const [low, high] = [Math.max(y[from], y[to]), Math.min(y[from], y[to])];
      if (py > low + 2 || py < high - 2) continue;
      // the curve falls steadily, so that one height meets it once: y(t) = a + (b - a)(1.5 t - 1.5 t² + t³)
      const want = y[from] === y[to] ? 0.5 : (py - y[from]) / (y[to] - y[from]);
      let [a, b] = [0, 1];
      for (let n = 0; n < 12; n++) {
        const t = (a + b) / 2;
        if (1.5 * t - 1.5 * t * t + t * t * t < want) a = t;
        else b = t;
      }
      const t = (a + b) / 2;
      const at = x[from] + (x[to] - x[from]) * (3 * t * t - 2 * t * t * t);
      const away = Math.abs(at - px) - WIDTHS[step[e]] / 2;
      if (away < nearest) [best, nearest] = [e, away];
    }
    return best;
  }

  const at = (event) => {
    const box = overCanvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  overCanvas.addEventListener("pointermove", (event) => {
    const found = nodeAt(...at(event));
    const edge = found === null ? edgeAt(...at(event)) : null;
    if (found !== hovered || edge !== hoveredEdge) {
      [hovered, hoveredEdge] = [found, edge];
      queue();
    }
    if (found !== null) showTip(tip(found), event.clientX, event.clientY);
    else if (edge !== null) showTip(edgeTip(edge), event.clientX, event.clientY);
    else hideTip();
  });
  overCanvas.addEventListener("pointerleave", () => {
    hovered = hoveredEdge = null;
    hideTip();
    queue();
  });
  overCanvas.addEventListener("click", (event) => {
    const found = nodeAt(...at(event));
    if (found !== null && (event.ctrlKey || event.metaKey || event.shiftKey)) onPin(found);
    else if (found !== null) onSelect(found);
    else {
      const edge = edgeAt(...at(event));
      if (edge === null) onSelect(null);
      else onLine(edge);
    }
  });

  function neighbour(key) {
    const { selected } = state;
    const listed = [...drawn.nodes.keys()].filter((i) => drawn.nodes[i]);
    if (selected === null || !drawn.nodes[selected]) return graph.sinks.find((i) => drawn.nodes[i]) ?? listed[0] ?? null;
    if (key === "ArrowUp" || key === "ArrowDown") {
      const up = key === "ArrowUp";
      const here = new Set(drawn.edges);
      const edge = (up ? graph.out : graph.into)[selected].find((e) => here.has(e));
      return edge === undefined ? selected : (up ? graph.edges.target : graph.edges.source)[edge];
    }
    const row = listed.filter((i) => laid.y[i] === laid.y[selected]).sort((a, b) => laid.x[a] - laid.x[b]);
    return row[row.indexOf(selected) + (key === "ArrowRight" ? 1 : -1)] ?? selected;
  }
  scroller.addEventListener("keydown", (event) => {
    if (event.key.startsWith("Arrow")) {
      event.preventDefault();
      const to = neighbour(event.key);
      if (to === null) return;
      onSelect(to);
      reveal(to);
      tell();
    }
  });

  function reveal(i) {
    if (!drawn.nodes[i]) return;
    const at = stack.getBoundingClientRect().top + laid.y[i];
    if (at < EDGE || at > innerHeight - EDGE) scrollBy({ top: at - innerHeight / 2 });
    const [x, left, wide] = [laid.x[i], scroller.scrollLeft, scroller.clientWidth];
    if (x < left || x > left + wide) scroller.scrollLeft = x - wide / 2;
  }

  const tell = () => {
    if (state.selected !== null) live.textContent = say(state.selected);
  };

  let wide = 0;
  new ResizeObserver(() => {
    if (scroller.clientWidth === wide) return;
    wide = scroller.clientWidth;
    paint();
  }).observe(scroller);
  painted(() => paint());

  return {
    element,
    /** `inMotion` while a slider moves. */
    draw(next, chosen, inMotion) {
      const same = next === drawn && chosen.pinned === state.pinned;
      [drawn, state] = [next, chosen];
      if (same) paintOver();
      else paint(inMotion);
    },
    /** Brings a node into the window, and the keys to the graph. */
    lead(i) {
      scroller.focus({ preventScroll: true });
      reveal(i);
    },
    /** Reads the chosen node aloud. */
    tell,
  };
}
