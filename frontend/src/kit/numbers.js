// Numbers as people read them: a true minus sign, as many digits as matter, and never a rounded-away "0".

import { format } from "d3-format";

const fixed = [format("+.2f"), format("+.3f"), format("+.1e")];
const plain = [format(".2f"), format(".3f"), format(".1e")];
const grouped = format(",d");

function adaptive(value, forms) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return forms[size >= 0.0995 ? 0 : size >= 0.00095 ? 1 : 2](value).replace("e-", "e−");
}

/** A signed number: +1.92, −0.034, +3.1e−6. */
export const signed = (value) => adaptive(value, fixed);

/** An unsigned number, as `signed`. */
export const number = (value) => adaptive(value, plain);

/** All digits that tell a number apart, as a 32-bit one where it is that: −0.8123459, 3.1e−6. */
export function exact(value) {
  let told = String(value);
  for (let digits = 1; digits <= 9 && Math.fround(value) === value; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) {
      told = String(short);
      break;
    }
  }
  return told.replaceAll("-", "−");
}

/** A limit or setting, as it was written: 0.05, 0.001. */
export const setting = (value) => format(".3~g")(value).replace("e-", "e−");

/** A ratio: 1.3, 6.7, 120, 3,400,000. */
export const times = (value) => (value < 9.95 ? format(".1f")(value) : format(",.2r")(value));

/** A count: 50,257. */
export const count = (value) => grouped(value);

/** A probability as a percentage that is never rounded to 0% or 100%. */
export function percent(p) {
  if (p === 0) return "0%";
  if (p < 0.0005) return "< 0.1%";
  if (p > 0.9995 && p < 1) return "> 99.9%";
  return `${format(p >= 0.0995 && p < 0.995 ? ".0f" : ".1f")(100 * p)}%`;
}

/** A number of parameters: 124 M. */
export function size(value) {
  if (value < 1e4) return count(value);
  return format(".3~s")(value).replace(
    /([kMGT])$/,
    (unit) => ` ${unit === "G" ? "B" : unit === "k" ? "K" : unit}`,
  );
}
