// Attention patterns as the page carries them: n × n 16-bit integers, gzipped, in base64.

import { gunzip } from "./gzip.js";

/** {n, scale, data} → {n, at(query, key), row(query)}, with values in [0, 1]. */
export async function unpack({ n, scale, data }) {
  const view = new DataView(await gunzip(data).arrayBuffer());
  const values = new Float32Array(n * n);
  for (let i = 0; i < values.length; i++) values[i] = view.getUint16(2 * i, true) / scale;
  return {
    n,
    at: (query, key) => values[query * n + key],
    row: (query) => values.subarray(query * n, (query + 1) * n),
  };
}
