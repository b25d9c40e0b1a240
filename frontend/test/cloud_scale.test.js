import assert from "node:assert/strict";
import { test } from "node:test";
import { fontSize, most } from "../src/kit/cloud_scale.js";

test("words grow in proportion to their value, whatever its sign, and stay readable", () => {
  assert.equal(fontSize(0.6), fontSize(-0.6));
  assert.ok(Math.abs(fontSize(1) / fontSize(0.7) - 1 / 0.7) < 1e-9);
  for (const share of [0, 1e-9, 0.2, -0.3]) assert.ok(fontSize(share) >= 13);
  assert.equal(fontSize(2), fontSize(1));
});

test("the largest of a side is that of both its ends, and never zero", () => {
  const side = (top, bottom) => ({
    top: top.map((value) => ({ value })),
    bottom: bottom.map((value) => ({ value })),
  });
  assert.equal(most(side([2, 1], [-3, -1])), 3);
  assert.equal(most(side([2], [1])), 2);
  assert.equal(most(side([0], [0])), 1);
  assert.equal(most(side([], [])), 1);
});
