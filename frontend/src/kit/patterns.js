// Attention patterns as the page carries them: n × n 16-bit integers, gzipped, in base64.

/** {n, scale, data} → {n, at(query, key), row(query)}, with values in [0, 1]. */
export async function unpack({ n, scale, data }) {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const view = new DataView(await new Response(stream).arrayBuffer());
  const values = new Float32Array(n * n);
  for (let i = 0; i < values.length; i++) values[i] = view.getUint16(2 * i, true) / scale;
  return {
    n,
    at: (query, key) => values[query * n + key],
    row: (query) => values.subarray(query * n, (query + 1) * n),
  };
}
