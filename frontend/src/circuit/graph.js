// The graph: nodes by layer and head (or position), edges as wide as their scores, and what to show of them.

import { h, put, s } from "../kit/dom.js";
import { choice } from "../kit/choice.js";
import { count, signed } from "../kit/numbers.js";
import { hideTip, showTip, tipTable } from "../kit/tooltip.js";
import { byHeads, byPositions, label, parse, path, shown, WIDEST_LINE } from "./layout.js";

// Wide enough on a desk; on a phone the graph is laid out for the room that there is, down to where names are legible.
const WIDEST = 800;
const NARROWEST = 340;
const NARROWEST_LINE = 0.7;
const LEGIBLE = 36; // a column of nodes with their names

/** {element, select(name)}; `onNode(name | null)` when a node is chosen, `onCount(count | null)` when edges are. */
export function graphView(doc, { onNode, onCount }) {
  const placed = doc.edges.some(({ source, target }) => parse(source).pos || parse(target).pos);
  const most = Math.max(...doc.edges.map(({ score }) => Math.abs(score ?? 0)), 0) || 1;
  let kept = null; // how many edges by score; null: the circuit as it was chosen
  let chosen = null;
  let laid = placed ? "positions" : "heads";
  let colours = "score";
  let room = WIDEST;

  const box = h("div", { class: "graph-box" });
  const told = h("p", { class: "note" });
  const key = h("div", { class: "edge-key" });
  const members = doc.edges.filter((edge) => edge.in).length;
  const slider = h("input", {
    type: "range",
    min: 1,
    max: doc.edges.length,
    value: Math.max(1, members),
    "aria-label": "How many edges are shown, by score",
    on: { input: () => keep(Number(slider.value)) },
  });
  const reset = h("button", { type: "button", class: "plain", on: { click: () => keep(null) } }, "the circuit");
  const controls = [
    h("label", { class: "slider" }, h("span", {}, "prune"), slider),
    reset,
    placed
      ? choice(
          "Columns",
          [
            { value: "positions", label: "layers × positions" },
            { value: "heads", label: "layers × heads" },
          ],
          (to) => {
            laid = to;
            draw();
          },
        ).element
      : null,
    doc.other
      ? choice(
          "Colours",
          [
            { value: "score", label: "by score" },
            { value: "other", label: `against ${doc.other.name}` },
          ],
          (to) => {
            colours = to;
            draw();
            explain();
          },
        ).element
      : null,
  ];

  function keep(to) {
    kept = to;
    if (to === null) slider.value = Math.max(1, members);
    reset.disabled = to === null;
    onCount(to);
    draw();
  }

  function kindOf(edge) {
    if (colours === "other") return edge.in && edge.other ? "shared" : edge.in ? "here" : edge.other ? "there" : "none";
    return edge.score === null ? "none" : edge.score * doc.supports < 0 ? "foil" : "target";
  }

  function widthOf({ score }) {
    return score === null ? 1.2 : NARROWEST_LINE + (WIDEST_LINE - NARROWEST_LINE) * Math.sqrt(Math.abs(score) / most);
  }

  function draw() {
    const edges = shown(doc.edges, kept);
    const drawn = [...doc.inputs, ...edges.flatMap(({ source, target }) => [source, target])];
    const columns =
      laid === "positions" ? new Set(drawn.map((name) => parse(name).pos)).size : Math.max(...doc.model.layers.map(({ heads }) => heads)) + 1.6;
    const width = Math.min(WIDEST, Math.max(NARROWEST, room, 56 + LEGIBLE * columns));
    const layout =
      laid === "positions"
        ? byPositions(doc.model.layers, drawn.filter((name) => edges.some((e) => e.source === name || e.target === name)), width)
        : byHeads(doc.model.layers, doc.inputs, drawn.map((name) => parse(name).base), width);
    const place = (name) => layout.nodes.get(laid === "positions" ? name : parse(name).base);
    const used = new Set(edges.flatMap(({ source, target }) => [place(source)?.name, place(target)?.name]));
    const near = (edge) => chosen === null || [edge.source, edge.target].some((name) => place(name)?.name === chosen);
    // thin ones on top, so that none is hidden
    const lines = edges
      .slice()
      .sort((a, b) => Math.abs(b.score ?? 0) - Math.abs(a.score ?? 0))
      .map((edge) => {
        const [from, to] = [place(edge.source), place(edge.target)];
        if (!from || !to) return null;
        const line = s("path", {
          class: `edge ${kindOf(edge)} ${near(edge) ? "" : "far"}`,
          d: path(from, to, edge.slot, layout.width),
          "stroke-width": widthOf(edge).toFixed(2),
        });
        line.addEventListener("pointermove", (event) => showTip(tip(edge), event.clientX, event.clientY));
        line.addEventListener("pointerleave", hideTip);
        return line;
      });
    const shapes = [...layout.nodes.values()].map((node) => {
      const role = doc.roles[node.name] ?? doc.roles[node.base];
      const shape = s(
        "g",
        {
          class: `node ${node.kind} ${used.has(node.name) ? "" : "idle"} ${node.name === chosen ? "chosen" : ""} ${role ? "named" : ""}`,
          transform: `translate(${node.x.toFixed(1)} ${node.y.toFixed(1)})`,
          tabindex: 0,
          role: "button",
          "aria-label": [label(node), role, node.name].filter(Boolean).join(" "),
        },
        s("rect", { x: -node.w / 2, y: -node.h / 2, width: node.w, height: node.h, rx: Math.min(5, node.h / 3) }),
        node.w >= 20 && node.h >= 11 ? s("text", { dy: "0.34em" }, label(node)) : null,
        role && node.w >= 34 ? s("text", { class: "role-label", y: node.h / 2 + 9 }, role.length > 15 ? `${role.slice(0, 14)}…` : role) : null,
      );
      const pick = () => select(node.name === chosen ? null : node.name);
      shape.addEventListener("click", pick);
      shape.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          pick();
        }
      });
      shape.addEventListener("pointermove", (event) => {
        const rows = [
          ["edges in", String(edges.filter((edge) => place(edge.target)?.name === node.name).length)],
          ["edges out", String(edges.filter((edge) => place(edge.source)?.name === node.name).length)],
        ];
        showTip(tipTable(node.name, role ? [["role", role], ...rows] : rows), event.clientX, event.clientY);
      });
      shape.addEventListener("pointerleave", hideTip);
      return shape;
    });
    put(
      box,
      s(
        "svg",
        { class: "circuit-graph", style: { "min-width": `${layout.width}px` }, viewBox: `0 0 ${layout.width} ${layout.height}`, role: "group", "aria-label": "The circuit's graph" },
        layout.rows.map(({ text, y }) => [
          s("line", { class: "tick", x1: 56, x2: layout.width, y1: y, y2: y }),
          s("text", { class: "axis", x: 0, y, dy: "0.34em" }, text),
        ]),
        layout.columns.map(({ text, x }) => s("text", { class: "axis", x, y: layout.height - 4, "text-anchor": "middle" }, text)),
        lines,
        shapes,
      ),
    );
    put(
      told,
      kept === null
        ? `The circuit: ${count(members)} of ${count(doc.total)} edges. `
        : `The ${count(edges.length)} edges of highest score of ${count(doc.total)}. `,
      doc.edges.length < doc.scored ? `Of ${count(doc.scored)} scored edges the best ${count(doc.edges.length)} are on this page. ` : "",
      "Choose a node to see what it does.",
    );
  }

  function tip(edge) {
    return tipTable(`${edge.source} → ${edge.target}`, [
      ...(edge.slot ? [["read through", { q: "query", k: "key", v: "value" }[edge.slot]]] : []),
      ["score", edge.score === null ? "none" : signed(edge.score)],
      ["in the circuit", edge.in ? "yes" : "no"],
      ...(doc.other ? [[`in ${doc.other.name}`, edge.other ? "yes" : "no"]] : []),
    ]);
  }

  function select(name) {
    chosen = name;
    draw();
    onNode(name);
  }

  // what a score's sign says is known only where the circuit records how it was scored
  function score(side) {
    return `${side * doc.supports > 0 ? "positive" : "negative"} score${doc.sign ? (side > 0 ? ": for the answer" : ": against it") : ""}`;
  }

  function explain() {
    const swatch = (kind, text) => h("span", {}, s("svg", { width: 26, height: 8 }, s("line", { class: `edge ${kind}`, x1: 1, x2: 25, y1: 4, y2: 4, "stroke-width": 3.4 })), text);
    put(
      key,
      colours === "other"
        ? [swatch("here", "only here"), swatch("there", `only in ${doc.other.name}`), swatch("shared", "in both")]
        : [swatch("target", score(1)), swatch("foil", score(-1)), doc.sign ? h("span", {}, doc.sign) : null],
      h("span", { class: "faint" }, "into a head: query left, key middle, value right; width grows with the root of the score"),
    );
  }

  new ResizeObserver(([{ contentRect }]) => {
    if (Math.round(contentRect.width) === room) return;
    room = Math.round(contentRect.width);
    draw();
  }).observe(box);
  explain();
  keep(null);
  return { element: h("div", {}, h("div", { class: "toolbar" }, controls), box, key, told), select };
}
