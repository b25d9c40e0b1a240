// What a page carries gzipped, in base64.

/** A response of the unzipped bytes: await its `json()`, `text()` or `arrayBuffer()`. */
export function gunzip(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
}
