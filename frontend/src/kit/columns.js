// Columns of numbers that a page carries as bytes: {column: kind, data, …} in the place of an array.
// The first bytes of all numbers stand before their second bytes, and so on, gzipped, in base64.

import { gunzip } from "./gzip.js";

const READ = { f4: "getFloat32", i1: "getInt8", i2: "getInt16", i4: "getInt32" };

async function numbers({ column, digits, per, differences, data }) {
  const bytes = new Uint8Array(await gunzip(data).arrayBuffer());
  const width = Number(column[1]);
  const size = bytes.length / width;
  const whole = new DataView(new ArrayBuffer(bytes.length));
  for (let b = 0; b < width; b++) for (let i = 0; i < size; i++) whole.setUint8(i * width + b, bytes[b * size + i]);
  const values = Array.from({ length: size }, (_, i) => whole[READ[column]](i * width, true));
  if (digits) return values.map((value) => Number(value.toPrecision(digits)));
  if (differences) for (let i = 1; i < size; i++) values[i] += values[i - 1];
  return per === 1 ? values : values.map((value) => value / per);
}

/** The same data, with arrays in the place of its columns. */
export async function withColumns(value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
  if ("column" in value && "data" in value) return numbers(value);
  const entries = Object.entries(value).map(async ([name, part]) => [name, await withColumns(part)]);
  return Object.fromEntries(await Promise.all(entries));
}
