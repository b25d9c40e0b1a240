import assert from "node:assert/strict";
import { test } from "node:test";
import { beforeTheLast, correlationWords, leadsFrom, verdictOf } from "../src/sections/lead.js";
import { exact, number, percent, setting, signed, size, times } from "../src/kit/numbers.js";

test("signed numbers keep their sign and never round to zero", () => {
  assert.deepEqual([1.9234, -0.0342, 3.1e-6, -1234.5, 0].map(signed), [
    "+1.92",
    "−0.034",
    "+3.1e−6",
    "−1234.50",
    "0",
  ]);
  assert.equal(number(-0.5), "−0.50");
});

test("percentages are 0% or 100% only where they are", () => {
  assert.deepEqual([0, 1e-5, 0.0123, 0.0996, 0.6149, 0.9996, 1].map(percent), [
    "0%",
    "< 0.1%",
    "1.2%",
    "10%",
    "61%",
    "> 99.9%",
    "100.0%",
  ]);
});

test("limits, ratios and sizes", () => {
  assert.deepEqual([0.001, 0.05, 1e-7].map(setting), ["0.001", "0.05", "1e−7"]);
  assert.deepEqual([1, 6.69, 123.4, 3.43e6].map(times), ["1.0", "6.7", "120", "3,400,000"]);
  assert.deepEqual([9000, 124439808, 7.24e9].map(size), ["9,000", "124 M", "7.24 B"]);
});

test("the lead is where half of the last difference is there for good, after a layer, with its margin", () => {
  const layers = ["embed", "0", "1", "2", "3"];
  assert.deepEqual(leadsFrom([-1, 2, -0.5, 1.6, 3], layers), { row: 3, margin: 1.6 });
  assert.deepEqual(leadsFrom([0.92, 0.012, 0.3, 2, 3.8], layers), { row: 3, margin: 2 });
  assert.deepEqual(leadsFrom([5, 4, 4.5, 5, 6], layers), { row: 1, margin: 4 }, "the embedding decides nothing");
  assert.equal(leadsFrom([1, 1, 1, 1, 0], layers), null);
  const before = (differences, of = layers) => beforeTheLast(differences, of, leadsFrom(differences, of));
  assert.equal(before([-66, -30, -31, -7.5, 3.8]), -7.5, "the last layer alone");
  assert.equal(before([-66, -30, -31, 2, 3.8]), null);
  assert.equal(before([-66, 3.8], ["embed", 0]), null, "a model of one layer has none before");
});

test("a weak correlation is called weak", () => {
  assert.deepEqual([0.8, 0.5, 0.03, -0.6].map(correlationWords), ["strong", "weak", "none", "none: it is negative"]);
  assert.deepEqual([{ passed: true }, { passed: false, verdict: "weak" }].map(verdictOf), ["held", "weak"]);
});

test("an exact number has the digits that tell it apart, and no more", () => {
  assert.equal(exact(Math.fround(0.1)), "0.1");
  assert.equal(exact(-0.5), "−0.5");
  assert.equal(exact(0), "0");
  assert.equal(exact(3.1e-7), "3.1e−7");
  assert.equal(exact(0.1 + 0.2), "0.30000000000000004");
  for (const value of [Math.PI, 1 / 3, 1e-5 / 7, 123456789.123].map(Math.fround)) {
    const told = exact(value);
    assert.equal(Math.fround(Number(told.replaceAll("−", "-"))), value);
    assert.ok(told.replace(/e.*|[.]/g, "").replace(/^0+/, "").length <= 9, told);
  }
});
