import assert from "node:assert/strict";
import test from "node:test";

import { unitsOf } from "../src/atlas/words.js";
import { looks, place } from "../src/atlas/looks.js";

const kind = (name, sort, more = {}) => ({ kind: name, sort, threshold: 0.2, band: 0.1, missing: "", ...more });
const candidate = (component, of, grade, score) => ({ component, kind: of, grade, score, control: 0, draw: {} });
const DOC = {
  kinds: [kind("induction", "head"), kind("entropy", "neuron", { band: null }), kind("lost", "head", { missing: "no text" })],
  units: [{ name: "L1H0", labels: ["induction"] }],
  experts: [],
  candidates: [
    candidate("L1H0", "induction", "proved", 0.9),
    candidate("L0H1", "induction", "unseen", 0.1),
    candidate("L0N7", "entropy", "seen", 0.3),
  ],
  looks: {
    induction: { unit: ["L0H0", "L0H1", "L1H0"], score: [0, 0.1, 0.9], control: [0, null, 0.01] },
    entropy: { unit: ["L0N3"], score: [0.8], control: [0] },
  },
};

test("a unit's name is its place", () => {
  assert.deepEqual(place("L12N345"), { layer: 12, sort: "N", index: 345 });
  assert.equal(place("L2"), null);
  assert.equal(place(""), null);
});

test("labels are those of the document, and candidates are rows whether or not their scores were sent", () => {
  const known = looks(DOC);
  assert.deepEqual(known.kinds.map(({ kind }) => kind), ["induction", "entropy"]);
  const rows = known.of("induction").map(({ unit, labeled, proved }) => [unit, labeled, proved]);
  assert.deepEqual(rows, [["L0H0", false, false], ["L0H1", false, false], ["L1H0", true, true]]);
  assert.deepEqual(known.of("entropy").map(({ unit, labeled }) => [unit, labeled]), [["L0N3", true], ["L0N7", true]]);
  assert.equal(known.of("induction")[2].bound, 0.2);
});

test("a unit's proved kinds come first", () => {
  assert.deepEqual(looks(DOC).unit("L1H0").map(({ kind }) => kind.kind), ["induction"]);
  assert.deepEqual(looks(DOC).unit("L5H5"), []);
  assert.deepEqual(looks({ ...DOC, looks: undefined }).of("entropy").map(({ unit }) => unit), ["L0N7"]);
});

test("units are listed by a word of their weights, then by where they are largest", () => {
  const words = (own) => [{ reads: [], writes: [], lowers: [], ...own }];
  const cards = {
    L0N1: { words: words({ reads: [" Paris"] }), windows: [] },
    L1N2: { words: words({ writes: [" paris"], lowers: ["Rome"] }), windows: [{ tokens: ["in", " Paris"], at: 1 }] },
    L1H0: { words: [{ reads: ["a"], writes: ["b"] }], windows: [{ tokens: [" Paris", " is"], at: 0 }] },
    L2N0: { words: [], windows: [{ tokens: [" Paris", " is"], at: 1 }] },
  };
  assert.deepEqual(unitsOf(cards, " PARIS"), [
    { unit: "L1N2", ways: ["writes", "at"] },
    { unit: "L0N1", ways: ["reads"] },
    { unit: "L1H0", ways: ["at"] },
  ]);
  assert.deepEqual(unitsOf(cards, "Rome"), [{ unit: "L1N2", ways: ["lowers"] }]);
  assert.deepEqual(unitsOf(cards, "  "), []);
});
