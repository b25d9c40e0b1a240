import assert from "node:assert/strict";
import { test } from "node:test";
import { byHeads, byPositions, label, parse, path, shown, WIDEST_LINE } from "../src/circuit/layout.js";

test("names are taken apart", () => {
  assert.deepEqual(parse("L2H11@S1+1"), { name: "L2H11@S1+1", base: "L2H11", kind: "head", layer: 2, index: 11, pos: "S1+1" });
  assert.equal(parse("MLP 3").kind, "mlp");
  assert.equal(parse("MLP 3 N17").kind, "unit");
  assert.equal(parse("L0KV1").kind, "kv_head");
  assert.equal(parse("logits").layer, Infinity);
  assert.equal(parse("embed@end").base, "embed");
  assert.equal(label(parse("L2H11")), "H11");
});

test("later layers stand higher, an MLP above its layer's heads, and nothing overlaps", () => {
  const layers = Array.from({ length: 12 }, () => ({ heads: 12, kv_heads: 4 }));
  const { nodes, height } = byHeads(layers, ["embed", "pos_embed"], ["MLP 1 N3"], 800);
  assert.ok(nodes.get("L3H0").y < nodes.get("L2H0").y);
  assert.ok(nodes.get("MLP 2").y < nodes.get("L2H0").y && nodes.get("MLP 2").y > nodes.get("L3H0").y);
  assert.ok(nodes.get("logits").y < nodes.get("L11H0").y && nodes.get("embed").y > nodes.get("L0H0").y);
  assert.ok([...nodes.values()].every(({ x, y, w }) => x - w / 2 >= 0 && x + w / 2 <= 800 && y > 0 && y < height));
  const row = [...nodes.values()].filter(({ kind, layer }) => kind === "head" && layer === 5).sort((a, b) => a.x - b.x);
  assert.ok(row.every((node, i) => i === 0 || node.x - node.w / 2 >= row[i - 1].x + row[i - 1].w / 2));
});

test("positions become columns in the order given, the end last", () => {
  const layers = [{ heads: 2, kv_heads: 2 }];
  const { nodes, columns } = byPositions(layers, ["embed@S1", "L0H1@S2", "L0H0@S2", "logits@end", "L0H0@S1"], 600);
  assert.deepEqual(columns.map(({ text }) => text), ["S1", "S2", "end"]);
  assert.ok(nodes.get("L0H0@S2").x < nodes.get("L0H1@S2").x);
  assert.ok(nodes.get("embed@S1").x < nodes.get("L0H0@S2").x);
});

test("an edge ends in its slot, and one straight up is bowed", () => {
  const from = { x: 10, y: 100, w: 20, h: 10 };
  const to = { x: 50, y: 20, w: 20, h: 10 };
  assert.match(path(from, to, "q"), /44\.0 25\.0$/);
  assert.match(path(from, to, "v"), /56\.0 25\.0$/);
  assert.match(path(from, { ...from, y: 20 }, ""), /C3\d/);
});

test("no bow leaves the picture, and longer ones still stand farther out", () => {
  const farthest = (d) => {
    const [x1, , x2, , x3, , x4] = d.match(/-?[\d.]+/g).map(Number);
    const at = (t) => (1 - t) ** 3 * x1 + 3 * (1 - t) ** 2 * t * x2 + 3 * (1 - t) * t ** 2 * x3 + t ** 3 * x4;
    return Math.max(...Array.from({ length: 101 }, (_, i) => at(i / 100)));
  };
  const { nodes, width } = byHeads(Array.from({ length: 30 }, () => ({ heads: 9, kv_heads: 3 })), ["embed"], [], 674);
  const out = [1, 5, 29].map((l) => farthest(path(nodes.get("MLP 0"), nodes.get(`MLP ${l}`), "", width)));
  assert.ok(out[0] < out[1] && out[1] < out[2] && out[2] + WIDEST_LINE / 2 <= width, out);
});

test("the circuit, or the best edges", () => {
  const edges = [{ in: false }, { in: true }, { in: false, other: true }];
  assert.equal(shown(edges, null).length, 2);
  assert.equal(shown(edges, 1)[0], edges[0]);
});
