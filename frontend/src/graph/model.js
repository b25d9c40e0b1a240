// A graph as it is walked: edges by node, which of them the sliders show, and what nodes that were grouped sum to.

/** Kinds that are drawn wherever the sliders stand. */
const ALWAYS = new Set(["embed", "pos_embed", "logits"]);

/** The heads of each edge, [[name, share], …] or null, from the columns in which the page carries them. */
export function edgeHeads({ names, count, head, percent }) {
  let at = 0;
  return count.map((own) => (own < 0 ? null : Array.from({ length: own }, () => [names[head[at]], percent[at++] / 100])));
}

/** The document's columns with, per node, its edges in and out (the heaviest first), and how strong each edge is. */
export function graphOf({ nodes, edges, about, effects }) {
  const size = nodes.name.length;
  const into = Array.from({ length: size }, () => []);
  const out = Array.from({ length: size }, () => []);
  const total = new Float64Array(size);
  edges.source.forEach((source, e) => {
    out[source].push(e);
    into[edges.target[e]].push(e);
    total[edges.target[e]] += Math.abs(edges.weight[e]);
  });
  const heaviest = (a, b) => Math.abs(edges.weight[b]) - Math.abs(edges.weight[a]);
  for (const list of [...into, ...out]) list.sort(heaviest);
  const signed = about.signed !== false;
  const sinks = nodes.kind.flatMap((kind, i) => (kind === "logits" ? [i] : []));
  return {
    nodes,
    edges,
    size,
    into,
    out,
    signed,
    effects,
    sinks: sinks.length ? sinks : into.flatMap((list, i) => (list.length && !out[i].length ? [i] : [])),
    /** Of all that an edge's target gets, from 0 to 1. */
    strength: edges.weight.map((weight, e) => Math.abs(weight) / (total[edges.target[e]] || 1)),
    /** 1 where an edge supports the target, -1 where it speaks against it, 0 where weights have no sign. */
    signs: edges.weight.map((weight, e) => (signed ? Math.sign(weight * effects[edges.target[e]]) : 0)),
    always: nodes.kind.map((kind) => ALWAYS.has(kind)),
  };
}

/**
 * What the sliders show: edges and nodes of no larger share that lead to a target, beside what is always shown.
 * Returns {nodes: which are shown, reached: which lead to a target, edges: their numbers, count of shown nodes}.
 */
export function shown(graph, { node, edge }, pinned) {
  const { nodes, edges, size, into, always, sinks } = graph;
  const wanted = new Uint8Array(size);
  for (let i = 0; i < size; i++) wanted[i] = always[i] || nodes.share[i] <= node || pinned.has(i) ? 1 : 0;
  const reached = new Uint8Array(size);
  const walk = sinks.filter((i) => wanted[i]);
  for (const i of walk) reached[i] = 1;
  const listed = [];
  while (walk.length) {
    for (const e of into[walk.pop()]) {
      const source = edges.source[e];
      if (edges.share[e] > edge || !wanted[source]) continue;
      listed.push(e);
      if (!reached[source]) {
        reached[source] = 1;
        walk.push(source);
      }
    }
  }
  const drawn = new Uint8Array(size);
  let count = 0;
  for (let i = 0; i < size; i++) {
    drawn[i] = reached[i] || always[i] || pinned.has(i) ? 1 : 0;
    count += drawn[i];
  }
  return { nodes: drawn, reached, edges: listed, count };
}

/**
 * The pinned nodes, those of a group as one: items {name, nodes, group}, and the edges between items, each the sum of
 * all edges of the graph between their nodes, whatever the sliders show.
 */
export function collapsed(graph, pinned, groups) {
  const items = groups.filter(({ nodes }) => nodes.length).map(({ name, nodes }) => ({ name, nodes, group: true }));
  const grouped = new Set(items.flatMap(({ nodes }) => nodes));
  for (const i of pinned) if (!grouped.has(i)) items.push({ name: graph.nodes.name[i], nodes: [i], group: false });
  const itemOf = new Map(items.flatMap(({ nodes }, at) => nodes.map((i) => [i, at])));
  const sums = new Map();
  for (const [i, at] of itemOf) {
    for (const e of graph.out[i]) {
      const to = itemOf.get(graph.edges.target[e]);
      if (to === undefined || to === at) continue;
      const key = `${at} ${to}`;
      const sum = sums.get(key) ?? { source: at, target: to, weight: 0, towards: 0, count: 0 };
      sum.weight += graph.edges.weight[e];
      sum.towards += graph.edges.weight[e] * graph.effects[graph.edges.target[e]];
      sum.count += 1;
      sums.set(key, sum);
    }
  }
  return { items, edges: [...sums.values()] };
}

/** A graph document of the chosen nodes alone, with the edges between them. */
export function part(doc, chosen, groups) {
  const kept = [...chosen].sort((a, b) => a - b);
  const number = new Map(kept.map((i, at) => [i, at]));
  const inside = (list) => list.every((i) => number.has(i));
  const renumbered = (rows) =>
    rows.filter(({ nodes }) => nodes.length && inside(nodes)).map((row) => ({ ...row, nodes: row.nodes.map((i) => number.get(i)) }));
  const edges = doc.edges.source.flatMap((source, e) => (number.has(source) && number.has(doc.edges.target[e]) ? [e] : []));
  const columns = (table, rows) => Object.fromEntries(Object.entries(table).map(([name, column]) => [name, rows.map((i) => column[i])]));
  const { visible: _, effects: __, ...own } = doc;
  return {
    ...own,
    about: { ...doc.about, part: "pinned nodes" },
    nodes: columns(doc.nodes, kept),
    edges: { ...columns(doc.edges, edges), source: edges.map((e) => number.get(doc.edges.source[e])), target: edges.map((e) => number.get(doc.edges.target[e])) },
    thresholds: { node: 1, edge: 1 },
    supernodes: renumbered(groups),
    interventions: renumbered(doc.interventions),
  };
}
