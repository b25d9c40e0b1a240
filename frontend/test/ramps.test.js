import assert from "node:assert/strict";
import { test } from "node:test";
import { lab, rgb } from "d3-color";
import { divergingRamp, sequentialRamp } from "../src/kit/ramps.js";

const steps = (from, n = 40) => Array.from({ length: n + 1 }, (_, i) => from + ((1 - from) * i) / n);
const lightness = (fill) => lab(fill).l;

for (const dark of [false, true]) {
  const name = dark ? "dark" : "light";

  test(`sequential, ${name}: lightness changes one way and evenly`, () => {
    const ls = steps(0).map((t) => lightness(sequentialRamp(dark)(t).fill));
    const differences = ls.slice(1).map((l, i) => l - ls[i]);
    const mean = (ls.at(-1) - ls[0]) / differences.length;
    for (const d of differences) assert.ok(Math.abs(d / mean - 1) < 0.45, `step ${d} against ${mean}`);
    assert.equal(Math.sign(mean), dark ? 1 : -1);
  });

  test(`diverging, ${name}: neutral at zero, as far on one side as on the other`, () => {
    const ramp = divergingRamp(dark);
    const { a, b } = lab(ramp(0).fill);
    assert.ok(Math.hypot(a, b) < 6, "the middle has no hue");
    for (const t of [0.2, 0.5, 0.8, 1]) {
      assert.ok(Math.abs(lightness(ramp(t).fill) - lightness(ramp(-t).fill)) < 4, `lightness at ±${t}`);
    }
    // Blue against orange: their b* (blue to yellow) differ, which red-green blindness keeps.
    assert.ok(lab(ramp(1).fill).b - lab(ramp(-1).fill).b > 70);
  });

  test(`${name}: text on every colour has contrast, and values beyond the ends keep the end's colour`, () => {
    for (const [ramp, from] of [
      [sequentialRamp(dark), 0],
      [divergingRamp(dark), -1],
    ]) {
      for (const t of steps(from)) {
        const { fill, ink } = ramp(t);
        assert.ok(contrast(fill, ink) >= 4.5, `${fill} with ${ink}: ${contrast(fill, ink)}`);
      }
      assert.equal(ramp(3).fill, ramp(1).fill);
      assert.equal(ramp(-3).fill, ramp(from).fill);
    }
  });
}

test("the rgb triple is the fill", () => {
  const { fill, rgb: triple } = sequentialRamp(false)(0.4);
  const { r, g, b } = rgb(fill);
  assert.deepEqual(triple, [r, g, b]);
});

function contrast(one, other) {
  const [a, b] = [one, other].map((colour) => {
    const { r, g, b: blue } = rgb(colour);
    const [R, G, B] = [r, g, blue].map((v) =>
      v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4,
    );
    return 0.2126 * R + 0.7152 * G + 0.0722 * B;
  });
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}
