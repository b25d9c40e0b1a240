import assert from "node:assert/strict";
import { gzipSync } from "node:zlib";
import { test } from "node:test";
import { unpack } from "../src/kit/patterns.js";

test("a packed pattern comes back, row by row", async () => {
  const bytes = Buffer.from(new Uint16Array([65535, 0, 16384, 49151]).buffer);
  const pattern = await unpack({ n: 2, scale: 65535, data: gzipSync(bytes).toString("base64") });
  assert.equal(pattern.at(0, 0), 1);
  assert.equal(pattern.at(0, 1), 0);
  assert.ok(Math.abs(pattern.at(1, 0) - 0.25) < 1e-4);
  assert.equal(pattern.row(1).length, 2);
});

test("damaged data is an error, not an empty pattern", async () => {
  await assert.rejects(unpack({ n: 2, scale: 65535, data: "AAAA" }));
});
