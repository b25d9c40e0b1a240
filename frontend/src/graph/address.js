// What a reader chose, as the end of the page's address, so that a link leads back to it.

const numbers = (text, size) => [...new Set((text ?? "").split(".").filter((part) => /^\d+$/.test(part)).map(Number))].filter((i) => i < size);
const share = (text, otherwise) => (text !== null && text !== "" && Number(text) >= 0 && Number(text) <= 1 ? Number(text) : otherwise);

/** {node, edge, pinned, groups, selected, line} → "n=0.8&e=0.98&pin=1.4&group=cities:1.4&sel=4"; `line` is the chosen edge. */
export function written({ node, edge, pinned, groups, selected, line }) {
  const parts = new URLSearchParams({ n: String(node), e: String(edge) });
  if (pinned.size) parts.set("pin", [...pinned].join("."));
  for (const { name, nodes } of groups) parts.append("group", `${name}:${nodes.join(".")}`);
  if (selected !== null) parts.set("sel", String(selected));
  if (line !== null) parts.set("line", String(line));
  return parts.toString();
}

/** The inverse of `written`, of a graph of so many nodes and edges; what is not of it is as in `otherwise`. */
export function read(text, size, lines, otherwise) {
  const parts = new URLSearchParams(text);
  if (![...parts.keys()].some((key) => ["n", "e", "pin", "sel", "line"].includes(key))) return otherwise;
  const groups = parts.getAll("group").map((group) => {
    const at = group.lastIndexOf(":");
    return { name: group.slice(0, at), nodes: numbers(group.slice(at + 1), size) };
  });
  const [selected] = numbers(parts.get("sel"), size);
  const [line] = numbers(parts.get("line"), lines);
  return {
    node: share(parts.get("n"), otherwise.node),
    edge: share(parts.get("e"), otherwise.edge),
    pinned: new Set([...numbers(parts.get("pin"), size), ...groups.flatMap(({ nodes }) => nodes)]),
    groups: groups.filter(({ nodes }) => nodes.length),
    selected: selected ?? null,
    line: line ?? null,
  };
}
