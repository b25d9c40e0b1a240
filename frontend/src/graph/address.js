// What a reader chose, as the end of the page's address, so that a link leads back to it.

const numbers = (text, size) => [...new Set((text ?? "").split(".").filter((part) => /^\d+$/.test(part)).map(Number))].filter((i) => i < size);
const share = (text, otherwise) => (text !== null && text !== "" && Number(text) >= 0 && Number(text) <= 1 ? Number(text) : otherwise);

/** {node, edge, pinned, groups, selected} → "n=0.8&e=0.98&pin=1.4&group=cities:1.4&sel=4" */
export function written({ node, edge, pinned, groups, selected }) {
  const parts = new URLSearchParams({ n: String(node), e: String(edge) });
  if (pinned.size) parts.set("pin", [...pinned].join("."));
  for (const { name, nodes } of groups) parts.append("group", `${name}:${nodes.join(".")}`);
  if (selected !== null) parts.set("sel", String(selected));
  return parts.toString();
}

/** The inverse of `written`; what is not there, or not of this graph, is as in `otherwise`. */
export function read(text, size, otherwise) {
  const parts = new URLSearchParams(text);
  if (![...parts.keys()].some((key) => ["n", "e", "pin", "sel"].includes(key))) return otherwise;
  const groups = parts.getAll("group").map((group) => {
    const at = group.lastIndexOf(":");
    return { name: group.slice(0, at), nodes: numbers(group.slice(at + 1), size) };
  });
  const [selected] = numbers(parts.get("sel"), size);
  return {
    node: share(parts.get("n"), otherwise.node),
    edge: share(parts.get("e"), otherwise.edge),
    pinned: new Set([...numbers(parts.get("pin"), size), ...groups.flatMap(({ nodes }) => nodes)]),
    groups: groups.filter(({ nodes }) => nodes.length),
    selected: selected ?? null,
  };
}
