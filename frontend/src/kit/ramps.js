// Colour scales, even in CIE lightness: equal steps of a value look like equal steps of colour.
// Diverging: blue (for the foil) – neutral – orange (for the target), a pair that all common colour blindness keeps.
// Sequential: paper to deep teal in light mode, the dark page to pale mint in dark mode.

import { hcl, lab } from "d3-color";

const STEPS = 256;
const DARK_INK = "#000000";
const LIGHT_INK = "#ffffff";
// the lightness on which both inks have the same contrast, 4.58
const EVEN = 49.4;

function table(colourAt) {
  return Array.from({ length: STEPS }, (_, i) => {
    const colour = colourAt(i / (STEPS - 1))
      .rgb()
      .clamp();
    return {
      fill: colour.formatHex(),
      rgb: [colour.r, colour.g, colour.b].map(Math.round),
      ink: lab(colour).l > EVEN ? DARK_INK : LIGHT_INK,
    };
  });
}

const mix = (a, b, t) => a + (b - a) * t;

function arm(dark, hue, chroma) {
  // Chroma rises a little faster than lightness falls, so that small values can be told from none.
  const grow = (t) => chroma * Math.pow(t, 0.85);
  return dark ? (t) => hcl(hue, grow(t), mix(15, 72, t)) : (t) => hcl(hue, grow(t), mix(97, 42, t));
}

function diverging(dark) {
  const foil = arm(dark, 268, dark ? 42 : 46);
  const target = arm(dark, dark ? 66 : 58, dark ? 62 : 66);
  const scale = table((u) => (u < 0.5 ? foil(1 - 2 * u) : target(2 * u - 1)));
  return (t) => scale[Math.round(((Math.max(-1, Math.min(1, t)) + 1) / 2) * (STEPS - 1))];
}

function sequential(dark) {
  const bump = (t) => 1.5 + 31 * Math.sin(Math.PI * 0.86 * t);
  const scale = table(
    dark
      ? (t) => hcl(mix(235, 180, t), bump(t), mix(15, 86, t))
      : (t) => hcl(mix(180, 235, t), bump(t), mix(97, 30, t)),
  );
  return (t) => scale[Math.round(Math.max(0, Math.min(1, t)) * (STEPS - 1))];
}

const both = (make) => {
  const made = [make(false), make(true)];
  return (dark) => made[dark ? 1 : 0];
};

/** dark → (t in [−1, 1]) → {fill, rgb, ink}; zero is the neutral middle. */
export const divergingRamp = both(diverging);

/** dark → (t in [0, 1]) → {fill, rgb, ink}. */
export const sequentialRamp = both(sequential);
