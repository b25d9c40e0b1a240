// What an atlas says of its units: by kind every unit with its score, by unit every kind that says something of it.

const NAME = /^L(\d+)([HNE])(\d+)$/;

/** A unit's place: its layer, whether head, neuron or expert, its number; null for another name. */
export function place(name) {
  const [, layer, sort, index] = NAME.exec(name) ?? [];
  return sort ? { layer: Number(layer), sort, index: Number(index) } : null;
}

/** `kinds` are those that were looked for; `of(kind)` their units' rows; `unit(name)` a unit's rows, proved ones first. */
export function looks(doc) {
  const kinds = doc.kinds.filter(({ missing }) => !missing);
  const labels = new Map([...doc.units, ...doc.experts].map(({ name, labels }) => [name, new Set(labels)]));
  const proofs = new Map(kinds.map(({ kind }) => [kind, []]));
  for (const one of doc.candidates) proofs.get(one.kind)?.push(one);
  const byKind = new Map(kinds.map((kind) => [kind.kind, rowsOf(kind, doc.looks?.[kind.kind], proofs.get(kind.kind), labels)]));
  const byUnit = new Map();
  for (const rows of byKind.values()) {
    for (const row of rows) byUnit.set(row.unit, [...(byUnit.get(row.unit) ?? []), row]);
  }
  const order = (row) => [row.proved, row.labeled, row.score / Math.max(row.bound, 1e-30)].map(Number);
  return {
    kinds,
    of: (kind) => byKind.get(kind) ?? [],
    unit: (name) => [...(byUnit.get(name) ?? [])].sort((a, b) => compare(order(b), order(a))),
  };
}

function compare(a, b) {
  const at = a.findIndex((value, i) => value !== b[i]);
  return at < 0 ? 0 : a[at] - b[at];
}

// Candidates are rows too, whether or not their score was sent with the others.
function rowsOf(kind, look, proofs, labels) {
  const bound = Math.max(kind.threshold, kind.band ?? kind.threshold);
  const rows = new Map();
  const { unit = [], score = [], control = [] } = look ?? {};
  unit.forEach((name, i) => {
    const labeled = kind.sort === "neuron" || Boolean(labels.get(name)?.has(kind.kind));
    rows.set(name, { kind, unit: name, score: score[i], control: control[i], bound, labeled, proved: false });
  });
  for (const proof of proofs) {
    const { component: name, score, control, grade } = proof;
    const known = rows.get(name) ?? { kind, unit: name, score, control, bound, labeled: grade !== "unseen" };
    rows.set(name, { ...known, proof, proved: grade === "proved" });
  }
  return [...rows.values()];
}
