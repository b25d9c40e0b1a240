// The pinned nodes as a graph of their own: groups as one box, with the sums of their edges.

import { h, put, s, tokenText } from "../kit/dom.js";
import { count, percent, signed } from "../kit/numbers.js";
import { tipTable, tipped } from "../kit/tooltip.js";
import { collapsed } from "./model.js";

const WIDTH = 132; // of a box
const HEIGHT = 40;
const GAP = 16;
const ROW = 84;
const LONGEST = 18; // characters of a name

/** {element, show(pinned, groups)}; `actions` are the buttons' {onGroup(nodes, name), onUngroup(at), onRename(at, name), onUnpin(nodes), onSelect(i), onExport, onClear}. */
export function pinnedView(doc, graph, see, actions) {
  const element = h("div", { class: "pinned-view" });
  const { nodes } = doc;
  let chosen = new Set();
  let [pinned, groups] = [new Set(), []];
  const nameOf = (item) => (item.group ? item.name : nodes.text[item.nodes[0]] ? see(nodes.text[item.nodes[0]]) : nodes.name[item.nodes[0]]);
  const short = (text) => (text.length > LONGEST ? `${text.slice(0, LONGEST - 1)}…` : text);

  function picture({ items, edges }) {
    const mean = (item, column) => item.nodes.reduce((sum, i) => sum + (nodes[column][i] ?? 0), 0) / item.nodes.length;
    const rows = new Map();
    items.forEach((item, at) => {
      const layer = Math.round(mean(item, "layer"));
      if (!rows.has(layer)) rows.set(layer, []);
      rows.get(layer).push(at);
    });
    const layers = [...rows.keys()].sort((a, b) => b - a);
    const widest = Math.max(...[...rows.values()].map((row) => row.length));
    const width = Math.max(element.clientWidth || 700, widest * (WIDTH + GAP) + GAP);
    const place = new Map();
    layers.forEach((layer, r) => {
      const row = rows.get(layer).sort((a, b) => mean(items[a], "pos") - mean(items[b], "pos"));
      // where its positions are in the prompt, moved aside where boxes would meet
      const least = (at) => GAP + WIDTH / 2 + at * (WIDTH + GAP);
      let right = -Infinity;
      row.forEach((item, at) => {
        const wanted = WIDTH / 2 + GAP + ((width - WIDTH - 2 * GAP) * mean(items[item], "pos")) / Math.max(1, doc.tokens.length - 1);
        const most = width - least(row.length - 1 - at);
        right = Math.min(most, Math.max(wanted, right + WIDTH + GAP));
        place.set(item, { x: right, y: 30 + r * ROW });
      });
    });
    const most = Math.max(...edges.map(({ weight }) => Math.abs(weight)), 1e-30);
    const lines = edges
      .toSorted((a, b) => Math.abs(b.weight) - Math.abs(a.weight))
      .map((edge) => {
        const [from, to] = [place.get(edge.source), place.get(edge.target)];
        const [y0, y1] = [from.y - HEIGHT / 2, to.y + HEIGHT / 2];
        const bend = from.y === to.y ? -40 : (y1 - y0) / 2;
        const kind = !graph.signed || edge.towards === 0 ? "seq" : edge.towards < 0 ? "foil" : "target";
        return tipped(
          s("path", {
            class: `edge ${kind}`,
            d: `M${from.x} ${y0}C${from.x} ${y0 + bend} ${to.x} ${y1 - bend} ${to.x} ${y1}`,
            "stroke-width": (0.8 + 5 * Math.sqrt(Math.abs(edge.weight) / most)).toFixed(2),
            "data-weight": edge.weight,
          }),
          () =>
            tipTable(`${nameOf(items[edge.source])} → ${nameOf(items[edge.target])}`, [
              ["weight", graph.signed ? signed(edge.weight) : percent(edge.weight)],
              ["sum of", `${count(edge.count)} edge${edge.count === 1 ? "" : "s"}`],
            ]),
        );
      });
    const boxes = items.map((item, at) => {
      const { x, y } = place.get(at);
      const under = item.group ? `${item.nodes.length} nodes` : nodes.name[item.nodes[0]];
      const box = s(
        "g",
        { class: `node ${item.group ? "grouped" : nodes.kind[item.nodes[0]]}`, transform: `translate(${x.toFixed(1)} ${y})`, tabindex: 0, role: "button", "aria-label": nameOf(item) },
        s("rect", { x: -WIDTH / 2, y: -HEIGHT / 2, width: WIDTH, height: HEIGHT, rx: 6 }),
        s("text", { dy: "-0.15em" }, short(nameOf(item))),
        s("text", { class: "under", dy: "1.25em" }, short(under === nameOf(item) ? "" : under)),
      );
      const go = () => actions.onSelect(item.nodes[0]);
      box.addEventListener("click", go);
      box.addEventListener("keydown", (event) => event.key === "Enter" && go());
      return box;
    });
    const height = layers.length * ROW - (ROW - HEIGHT) + 22;
    return h("div", { class: "scroll-x" }, s("svg", { class: "pinned-graph", viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": "The pinned nodes" }, lines, boxes));
  }

  function listed({ items }) {
    return h(
      "ul",
      { class: "pinned-list" },
      items.map((item, at) => {
        const group = item.group ? groups.findIndex(({ name, nodes: own }) => name === item.name && own === item.nodes) : -1;
        const box = h("input", {
          type: "checkbox",
          checked: item.nodes.every((i) => chosen.has(i)),
          "aria-label": `choose ${nameOf(item)} for a group`,
          on: { change: () => item.nodes.forEach((i) => (box.checked ? chosen.add(i) : chosen.delete(i))) },
        });
        return h(
          "li",
          { "data-item": at },
          box,
          item.group
            ? h("input", { type: "text", class: "group-name", value: item.name, "aria-label": "the group’s name", on: { change: (event) => actions.onRename(group, event.target.value) } })
            : h("button", { type: "button", class: "feature-link", on: { click: () => actions.onSelect(item.nodes[0]) } }, nodes.name[item.nodes[0]]),
          item.group ? h("span", { class: "faint" }, item.nodes.map((i) => nodes.name[i]).join(", ")) : nodes.text[item.nodes[0]] ? h("span", { class: "faint" }, tokenText(see(nodes.text[item.nodes[0]]))) : null,
          h("button", { type: "button", class: "plain small", on: { click: () => (item.group ? actions.onUngroup(group) : actions.onUnpin(item.nodes)) } }, item.group ? "ungroup" : "unpin"),
        );
      }),
    );
  }

  function draw() {
    if (!pinned.size) {
      put(element, h("p", { class: "note" }, "Nothing is pinned. Choose a node and press p, or Shift-click it: pinned nodes stay in view under any threshold, can be put together into named groups, and are drawn here with the sums of their edges."));
      return;
    }
    const small = collapsed(graph, pinned, groups);
    const name = h("input", { type: "text", class: "group-name", placeholder: "name of a group", "aria-label": "name of a group" });
    const group = () => {
      const picked = [...pinned].filter((i) => chosen.has(i));
      const taken = picked.length ? picked : [...pinned].filter((i) => !graph.always[i]);
      chosen = new Set();
      actions.onGroup(taken, name.value.trim());
    };
    name.addEventListener("keydown", (event) => event.key === "Enter" && group());
    put(
      element,
      picture(small),
      h(
        "div",
        { class: "pinned-tools" },
        name,
        h("button", { type: "button", class: "plain", title: "the chosen ones, or all that are no token or logit", on: { click: group } }, "group"),
        h("button", { type: "button", class: "plain", on: { click: actions.onExport } }, "export as JSON"),
        h("button", { type: "button", class: "plain", on: { click: actions.onClear } }, "unpin all"),
      ),
      listed(small),
    );
  }

  return {
    element,
    show(nextPinned, nextGroups) {
      [pinned, groups] = [nextPinned, nextGroups];
      draw();
    },
  };
}
