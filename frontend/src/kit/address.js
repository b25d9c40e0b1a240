// What a reader chose, in the page's address after "#" as key=value pairs, so that a link leads back to it.
// `at` is the section that the page opens at.

const pairs = () => new URLSearchParams(location.hash.slice(1));

/** What the address says of `key`, or null. */
export const recall = (key) => pairs().get(key);

/** Put a choice into the address; null takes it out. */
export function remember(key, value) {
  const now = pairs();
  if (value === null) now.delete(key);
  else now.set(key, value);
  // a section's bare name, as any link within a page has it, is no choice
  for (const [name, own] of [...now]) if (own === "") now.delete(name);
  const text = now.toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

/** Words as a key of the address, and as the id of an element. */
export const slug = (words) =>
  words
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-|-$/g, "");
