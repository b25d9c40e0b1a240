// Where the nodes of a circuit stand: layers upwards, heads or positions across. Plain numbers, no elements.

const NODE = /^(?:L(\d+)(H|KV)(\d+)|MLP (\d+)(?: ([NF])(\d+))?|(embed|pos_embed|logits))(?:@(.+))?$/;

/** A node's name taken apart: {name, base, kind, layer, index, pos}; layer is −1 for embeddings, Infinity for logits. */
export function parse(name) {
  const found = NODE.exec(name);
  if (!found) return { name, base: name, kind: "other", layer: 0, index: 0, pos: "" };
  const [, layer, which, head, mlp, sort, unit, word, pos = ""] = found;
  const base = pos ? name.slice(0, name.lastIndexOf("@")) : name;
  if (word) return { name, base, kind: word, layer: word === "logits" ? Infinity : -1, index: 0, pos };
  if (mlp !== undefined)
    return { name, base, kind: sort ? "unit" : "mlp", layer: Number(mlp), index: Number(unit ?? 0), pos };
  return { name, base, kind: which === "H" ? "head" : "kv_head", layer: Number(layer), index: Number(head), pos };
}

/** What is written on a node. */
export function label({ kind, index, base }) {
  return { head: `H${index}`, kv_head: `KV${index}`, mlp: "MLP", embed: "embed", pos_embed: "positions" }[kind] ?? base;
}

const SIDE = 64; // room for the names of layers
const TOP = 30;
export const WIDEST_LINE = 7; // of the strongest edge

/** Rows of heads with the layer's MLP at their right. layers: [{heads, kv_heads}], inputs: names, drawn: node names. */
export function byHeads(layers, inputs, drawn, width) {
  const most = Math.max(...layers.map(({ heads }) => heads), 1);
  const shared = layers.some(({ heads, kv_heads }) => kv_heads < heads);
  const row = rowHeight(layers.length, shared);
  const column = (width - SIDE) / (most + 1.6);
  const w = Math.max(9, Math.min(56, column - 8));
  const h = Math.max(10, Math.min(22, row * 0.28));
  const height = TOP + row * (layers.length + 1) + 34;
  const nodes = new Map();
  const put = (name, x, y, wide = w) => nodes.set(name, { ...parse(name), x, y, w: wide, h });
  const yOf = (layer) => height - 34 - row * (layer + 1);
  inputs.forEach((name, i) =>
    put(name, SIDE + (width - SIDE) * ((i + 1) / (inputs.length + 1)), height - 22, Math.max(w, 74)),
  );
  layers.forEach(({ heads, kv_heads }, l) => {
    for (let i = 0; i < heads; i++) put(`L${l}H${i}`, SIDE + column * (i + 0.5), yOf(l));
    if (kv_heads < heads)
      for (let i = 0; i < kv_heads; i++)
        put(`L${l}KV${i}`, SIDE + column * ((i + 0.5) * (heads / kv_heads)), yOf(l) + h + 9, Math.min(w, 44));
    put(`MLP ${l}`, SIDE + column * (most + 0.65), yOf(l) - row * 0.32, Math.max(w, 40));
  });
  put("logits", SIDE + (width - SIDE) / 2, TOP - 8, Math.max(w, 74));
  units(drawn, nodes, h);
  const rows = layers.map((_, l) => ({ text: `layer ${l}`, y: yOf(l) }));
  return { nodes, rows, columns: [], width, height };
}

/** Rows of layers, a column for each position that a node names; heads of one place side by side. */
export function byPositions(layers, drawn, width, order = []) {
  const parsed = [...new Set(drawn)].map(parse);
  const positions = [...new Set(parsed.map(({ pos }) => pos))].sort(
    (a, b) => rank(order, a) - rank(order, b) || a.localeCompare(b, undefined, { numeric: true }),
  );
  const row = rowHeight(layers.length, false);
  const column = (width - SIDE) / positions.length;
  const height = TOP + row * (layers.length + 1) + 34;
  const h = Math.max(10, Math.min(22, row * 0.28));
  const nodes = new Map();
  const places = new Map();
  for (const node of parsed) {
    const key = `${Math.min(node.layer, layers.length)} ${node.pos} ${["mlp", "unit"].includes(node.kind)}`;
    places.set(key, [...(places.get(key) ?? []), node]);
  }
  for (const together of places.values()) {
    together.sort((a, b) => a.index - b.index);
    const w = Math.max(9, Math.min(52, column / together.length - 6));
    together.forEach((node, i) => {
      const middle = SIDE + column * (positions.indexOf(node.pos) + 0.5);
      const x = middle + (i - (together.length - 1) / 2) * (w + 5);
      const lift = ["mlp", "unit"].includes(node.kind) ? row * 0.4 : 0;
      const y =
        node.kind === "logits" ? TOP - 8 : node.layer < 0 ? height - 22 : height - 34 - row * (node.layer + 1) - lift;
      nodes.set(node.name, { ...node, x, y, w, h });
    });
  }
  return {
    nodes,
    rows: layers.map((_, l) => ({ text: `layer ${l}`, y: height - 34 - row * (l + 1) })),
    columns: positions.map((pos, i) => ({ text: pos || "all", x: SIDE + column * (i + 0.5) })),
    width,
    height: height + 18,
  };
}

const rank = (order, pos) => (order.includes(pos) ? order.indexOf(pos) : order.length + (pos === "end" ? 1 : 0));

const rowHeight = (layers, shared) => Math.max(shared ? 64 : 40, Math.min(shared ? 112 : 98, 900 / layers));

/** Neurons and features stand in a row above their MLP. */
function units(drawn, nodes, h) {
  const found = drawn.map(parse).filter(({ kind, name }) => kind === "unit" && !nodes.has(name));
  const taken = new Map();
  for (const node of found) {
    const of = nodes.get(`MLP ${node.layer}`);
    const at = taken.get(node.layer) ?? 0;
    taken.set(node.layer, at + 1);
    nodes.set(node.name, { ...node, x: of.x + of.w / 2 - 8 - 16 * (at % 4), y: of.y - h - 3 - (h + 2) * Math.floor(at / 4), w: 14, h: h * 0.8 });
  }
}

/** The path of an edge: from the top of its writer into its reader's slot; nothing at the right of `edge` is drawn. */
export function path(from, to, slot, edge = Infinity) {
  const port = { q: -0.3, k: 0, v: 0.3 }[slot] ?? 0;
  const x1 = from.x;
  const y1 = from.y - from.h / 2;
  const x2 = to.x + port * to.w;
  const y2 = to.y + to.h / 2;
  const bend = Math.max(14, Math.abs(y1 - y2) * 0.42);
  // from one node to another straight above it: bowed to the right, the more the further, so that they can be told apart,
  // and never out of the picture, to which a curve comes three quarters as near as what draws it
  const wanted = 12 + Math.abs(y1 - y2) * 0.16;
  const most = Math.max(0, edge - WIDEST_LINE / 2 - x1) / 0.75;
  const bow = Math.abs(x1 - x2) >= 1 ? 0 : most === Infinity ? wanted : most * (1 - Math.exp(-wanted / Math.max(most, 1)));
  const at = (x, y) => `${x.toFixed(1)} ${y.toFixed(1)}`;
  return `M${at(x1, y1)}C${at(x1 + bow, y1 - bend)} ${at(x2 + bow, y2 + bend)} ${at(x2, y2)}`;
}

/** Edges that are shown: the circuit's own, or the first `count` in the order of their scores. */
export function shown(edges, count) {
  return count === null ? edges.filter((edge) => edge.in || edge.other) : edges.slice(0, count);
}
