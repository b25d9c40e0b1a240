import assert from "node:assert/strict";
import { test } from "node:test";
import { leadsFrom } from "../src/sections/lead.js";
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

test("the lead is where the difference turns positive for good", () => {
  assert.equal(leadsFrom([-1, 2, -0.5, 0.1, 3]), 3);
  assert.equal(leadsFrom([1, 2]), 0);
  assert.equal(leadsFrom([1, 0]), null);
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
