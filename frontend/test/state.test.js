import assert from "node:assert/strict";
import { test } from "node:test";
import { MOST_OF_ADDRESS, START, addressOf, noName, noNumber, readState } from "../src/explorer/state.js";

const LINE = JSON.stringify({ prompt: "Mary went to the", target: " store", kind: "“place” & more #1" });

test("an address leads back to the state, pasted lines too", () => {
  const state = { ...START, prompt: "a\nb", view: "table", lines: `${LINE}\n${LINE}`, sort: "-logit_diff", slices: [["kind", "“place” & more #1"]], changes: [{ part: "mlp", layer: 3, factor: 0 }] };
  assert.deepEqual(readState(addressOf(state)), { state, problems: [] });
  assert.deepEqual(readState(""), { state: START, problems: [] });
  assert.deepEqual(readState(addressOf(START)), { state: START, problems: [] });
});

test("lines that are too long for an address are counted in their place", () => {
  const lines = LINE.repeat(400);
  const address = addressOf({ ...START, view: "table", lines });
  assert.ok(address.length < MOST_OF_ADDRESS);
  const { state } = readState(address);
  assert.deepEqual([state.lines, state.unlinked], ["", String(lines.length)]);
});

test("what of an address cannot be read is said, and the rest is read", () => {
  for (const hash of ["#{", "#[1]", "#null", "#%", "#3", "#%7B%22prompt%22"]) {
    const { state, problems } = readState(hash);
    assert.deepEqual(state, START);
    assert.match(problems[0], /address/);
  }
  const changes = [{ part: "mlp", layer: 1, factor: 0 }, { part: "code", factor: 0 }, { part: "mlp", layer: 1 }, null, { part: "direction", direction: "she", factor: 1 }, { part: "toString", factor: 1 }];
  const { state, problems } = readState(`#${encodeURIComponent(JSON.stringify({ prompt: "a", layer: 3, poem: "x", __proto__x: "y", slices: [["kind", 3]], changes }))}`);
  assert.equal(state.prompt, "a");
  assert.deepEqual(state.changes, [changes[0]]);
  assert.equal(problems.length, 9);
  for (const word of ["layer", "poem", "code"]) assert.ok(problems.some((text) => text.includes(word)));
});

test("numbers and names that are not there are said", () => {
  for (const text of ["", "0", "3"]) assert.equal(noNumber("layer", text, 4), "");
  for (const text of ["4", "-1", "1.5", "x", "9".repeat(30), "1e1"]) assert.match(noNumber("layer", text, 4), /no layer .* 0 to 3/);
  assert.equal(noName("task", "ioi", ["ioi"]), "");
  assert.match(noName("task", "poem", ["ioi"]), /no task “poem”/);
});
