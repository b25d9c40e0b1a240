import assert from "node:assert/strict";
import { test } from "node:test";
import { leadsFrom } from "../src/lead.js";
import { number, percent, setting, signed, size, times } from "../src/numbers.js";

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

test("the lead is where the difference turns positive for good", () => {
  assert.equal(leadsFrom([-1, 2, -0.5, 0.1, 3]), 3);
  assert.equal(leadsFrom([1, 2]), 0);
  assert.equal(leadsFrom([1, 0]), null);
});
