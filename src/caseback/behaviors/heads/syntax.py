"""Heads that look along one relation of a dependency tree (PRIMER 5.1.3).

    score = max over relations r of   P(strongest key = the word at the other end of r) - P(best fixed distance of r)

over words that have such an arc to a word before, of a treebank; the strongest of all keys but the row's first token.
The baseline is a head that always looks so many tokens back, at whichever distance does best. The relation is chosen on
the half that heads are ranked on. The control gives every word the distance of another arc of the relation, with its
own best distance: a head of a fixed distance is as good there, one that knows the tree is not.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Look, halves, kind
from caseback.behaviors.labelled_streams import MOVED, SKIP, TREEBANK
from caseback.model.findings import band_of_best


def best_distance(evidence: Evidence, name: str) -> Float[np.ndarray, " fold"]:
    """How often the best fixed distance is right, by fold; the same distance in all of them."""
    by_fold = []
    for rows in evidence.rows[TREEBANK]:
        every = [(i, key) for _, labels in rows for i, key in enumerate(labels[name]) if key >= 0 and i >= SKIP]
        query, key = np.array(every, dtype=int).reshape(-1, 2).T
        by_fold.append(np.bincount(query - key, minlength=2))
    counts = np.zeros((len(by_fold), max(map(len, by_fold))))
    for own, count in zip(counts, by_fold, strict=True):
        own[: len(count)] = count
    best = counts.sum(0).argmax()
    return counts[:, best] / np.maximum(counts.sum(1), 1)


def over_distance(evidence: Evidence, name: str) -> Float[np.ndarray, "head fold"]:
    """Hits of every head, less those of the best fixed distance; 0 in a fold without such arcs."""
    hits = evidence.by_head(TREEBANK, "attention_relations", "hits", relation=f"to:{name}")
    return np.where(np.isnan(hits), 0.0, hits - best_distance(evidence, name))


@kind(
    "syntactic",
    "head",
    entry="5.1.3",
    citation="Clark et al. 2019, Voita et al. 2019",
    looks_at="share of a relation's arcs whose other end the head looks at most, less that of the best fixed distance",
    control_is="the same with the distances of other arcs of the relation",
    threshold=0.1,
    needs={TREEBANK: ("attention_relations",)},
    proof="agreement",
)
def syntactic(evidence: Evidence) -> Look:
    """Looking along arcs of one relation."""
    relations = [str(name) for name in evidence.folds(TREEBANK, "attention_relations")[0]["relation"].values]
    names = [name for name in (one.removeprefix("to:") for one in relations) if not name.endswith(MOVED)]
    own = np.stack([over_distance(evidence, name) for name in names])
    moved = np.stack([over_distance(evidence, name + MOVED) for name in names])
    (first, second), (first_moved, second_moved) = (
        [part.reshape(*own.shape[:2], -1) for part in halves(x.reshape(-1, x.shape[2]))] for x in (own, moved)
    )
    best, heads = first.mean(2).argmax(0), np.arange(own.shape[1])
    return Look(
        first.mean(2)[best, heads],
        second.mean(2)[best, heads],
        second_moved.mean(2)[best, heads],
        band_of_best(first_moved.reshape(-1, first_moved.shape[2])),
        {name: second[i].mean(1) for i, name in enumerate(names)},
        tuple(names[i] for i in best),
    )
