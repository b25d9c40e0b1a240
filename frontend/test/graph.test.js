import assert from "node:assert/strict";
import { test } from "node:test";
import { read, written } from "../src/graph/address.js";
import { layout } from "../src/graph/layout.js";
import { collapsed, edgeHeads, graphOf, part, shown } from "../src/graph/model.js";

// a and b feed c, c feeds the logit; b feeds the logit too; d feeds a light edge only
const DOC = {
  about: { method: "attribution" },
  visible: {},
  effects: [0.5, -0.5, 1, 0.1, 1],
  nodes: {
    name: ["embed@0", "L0F1@0", "L1F2@1", "L0F3@1", "logits[7]@1"],
    kind: ["embed", "feature", "feature", "feature", "logits"],
    layer: [-1, 0, 1, 0, 2],
    pos: [0, 0, 1, 1, 1],
    influence: [1, 2, 3, 0.5, 4],
    share: [0.7, 0.5, 0.3, 0.95, 0],
  },
  edges: { source: [0, 1, 2, 1, 3], target: [2, 2, 4, 4, 4], weight: [2, -1, 4, -3, 0.5], share: [0.6, 0.8, 0, 0.4, 0.95], heads: [null, null, null, null, null] },
  interventions: [{ name: "c", nodes: [2], factor: 0, predicted: 1, measured: 1 }, { name: "a and c", nodes: [1, 2], factor: 0, predicted: 1, measured: 1 }],
};

test("each edge finds its heads in the columns", () => {
  const heads = edgeHeads({ names: ["L0H1", "skip"], count: [2, -1, 0, 1], head: [0, 1, 1], percent: [60, -40, 100] });
  assert.deepEqual(heads, [[["L0H1", 0.6], ["skip", -0.4]], null, [], [["skip", 1]]]);
});

test("sliders hide nodes and edges, and what then leads nowhere", () => {
  const graph = graphOf(DOC);
  const all = shown(graph, { node: 1, edge: 1 }, new Set());
  assert.deepEqual([all.count, all.edges.length], [5, 5]);
  const some = shown(graph, { node: 1, edge: 0.9 }, new Set());
  assert.deepEqual([...some.nodes], [1, 1, 1, 0, 1]);
  const fewer = shown(graph, { node: 0.4, edge: 1 }, new Set());
  assert.deepEqual([...fewer.nodes], [1, 0, 1, 0, 1]);
  assert.deepEqual(fewer.edges.toSorted(), [0, 2]);
  const pinned = shown(graph, { node: 0, edge: 0.1 }, new Set([3]));
  assert.deepEqual([...pinned.nodes], [1, 0, 0, 1, 1]);
  assert.deepEqual([...pinned.reached], [0, 0, 0, 0, 1]);
});

test("an edge has the sign of what it does to the target in the end", () => {
  const graph = graphOf({ ...DOC, effects: [0.5, -0.5, -1, 0.1, 1] });
  assert.deepEqual(graph.signs, [-1, 1, 1, -1, 1]);
  assert.deepEqual(graphOf({ ...DOC, about: { method: "flow", signed: false } }).signs, [0, 0, 0, 0, 0]);
  assert.equal(graph.strength[0], 2 / 3);
});

test("a group's edges are the sums of its nodes' edges", () => {
  const graph = graphOf(DOC);
  const { items, edges } = collapsed(graph, new Set([1, 2, 4]), [{ name: "both", nodes: [1, 2] }]);
  assert.deepEqual(items.map(({ name }) => name), ["both", "logits[7]@1"]);
  assert.deepEqual(edges.map(({ weight, count }) => [weight, count]), [[1, 2]]);
  assert.equal(collapsed(graph, new Set([1, 2, 4]), []).edges.length, 3);
});

test("a part of a graph is a graph of its own", () => {
  const own = part(DOC, new Set([4, 2, 1]), [{ name: "c", nodes: [2] }, { name: "elsewhere", nodes: [3] }]);
  assert.deepEqual(own.nodes.name, ["L0F1@0", "L1F2@1", "logits[7]@1"]);
  assert.deepEqual([own.edges.source, own.edges.target, own.edges.weight], [[0, 1, 0], [1, 2, 2], [-1, 4, -3]]);
  assert.deepEqual(own.supernodes, [{ name: "c", nodes: [1] }]);
  assert.deepEqual(own.interventions.map(({ name, nodes }) => [name, nodes]), [["c", [1]], ["a and c", [0, 1]]]);
  assert.ok(!("visible" in own) && !("effects" in own));
});

test("an address leads back to what was chosen, and foreign ones are passed over", () => {
  const begun = { node: 0.8, edge: 0.98, pinned: new Set(), groups: [], selected: null, line: null };
  const state = { node: 0.5, edge: 1, pinned: new Set([3, 1]), groups: [{ name: "a & b: c", nodes: [3] }], selected: 4, line: 6 };
  assert.deepEqual(read(written(state), 5, 7, begun), state);
  assert.equal(read("", 5, 7, begun), begun);
  assert.equal(read("something", 5, 7, begun), begun);
  assert.deepEqual(read("n=7&e=&pin=9.x.1&sel=99&line=7&group=g:77", 5, 7, begun), { ...begun, pinned: new Set([1]) });
});

test("layers run upwards, positions to the right, and nodes of one place stand apart", () => {
  const size = 300;
  const nodes = {
    kind: Array.from({ length: size }, (_, i) => (i % 5 ? "feature" : "error")),
    layer: Array.from({ length: size }, (_, i) => i % 6),
    pos: Array.from({ length: size }, (_, i) => (i % 11) % 4),
    share: Array.from({ length: size }, () => 0),
  };
  const every = new Uint8Array(size).fill(1);
  const { x, y, columns, width } = layout({ nodes, size }, { nodes: every, reached: every }, 4, 700);
  assert.equal(new Set([...x].map((at, i) => `${at.toFixed(2)} ${y[i].toFixed(2)}`)).size, size);
  for (let i = 0; i < size; i++) {
    assert.ok(x[i] > 0 && x[i] < width && columns[nodes.pos[i]].x - columns[nodes.pos[i]].width / 2 < x[i] && x[i] < columns[nodes.pos[i]].x + columns[nodes.pos[i]].width / 2);
    if (nodes.layer[i] > 0) assert.ok(y[i] < y[i - 1], "a layer stands above the one below");
  }
  assert.ok(width <= 701);
});

test("a long prompt has columns only where something is shown", () => {
  const nodes = { kind: ["embed", "feature"], layer: [-1, 0], pos: [5, 90], share: [0, 0] };
  const laid = layout({ nodes, size: 2 }, { nodes: new Uint8Array([1, 1]), reached: new Uint8Array([0, 1]) }, 100, 700);
  assert.deepEqual(laid.columns.map(({ pos }) => pos), [90]);
});
