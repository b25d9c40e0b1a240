"""Heads that write what stands in a relation to what they look at, from weights alone (PRIMER 5.1.5; beyond: B.19).

    score = share of pairs whose attribute is what the head raises most of all attributes of the relation

The control pairs each subject with the attribute of another. A subject of several tokens is read at its last one;
attributes are single tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from caseback.behaviors.evidence import Evidence
from caseback.behaviors.heads.early_words import most_written
from caseback.behaviors.heads.vocabulary import single_token
from caseback.behaviors.kinds import Look, kind, look_at
from caseback.errors import SiteAbsent
from caseback.tasks.facts import RELATIONS, Relation

FEWEST = 20
FOLDS = 4


def token_pairs(evidence: Evidence, relation: Relation) -> list[tuple[int, int]]:
    """Last tokens of subjects with their attributes.

    Raises
    ------
    SiteAbsent
        Where hardly any attribute is one token.
    """
    tokenizer = evidence.model.tokenizer
    pairs = []
    for subject, attribute in relation.facts:
        target = None if tokenizer is None else single_token(tokenizer, attribute)
        if tokenizer is not None and target is not None:
            pairs.append((tokenizer(f" {subject}", add_special_tokens=False)["input_ids"][-1], target))
    pairs = list(dict(pairs).items())  # a token that ends two subjects says nothing of either
    if len(pairs) < FEWEST or len({target for _, target in pairs}) < 3:
        raise SiteAbsent(f"{len(pairs)} pairs of {relation.about} are single tokens here: expected {FEWEST} at least")
    order = np.random.default_rng(evidence.seed).permutation(len(pairs))
    return [pairs[i] for i in order]


def _look(relation: Relation) -> Callable[[Evidence], Look]:
    def look(evidence: Evidence) -> Look:
        pairs = token_pairs(evidence, relation)
        targets = list(dict.fromkeys(target for _, target in pairs))
        best = most_written(evidence.model, [subject for subject, _ in pairs], targets)
        own = np.array([targets.index(target) for _, target in pairs])
        # the next subject with another attribute
        other = np.array([next(x for x in np.roll(own, -i) if x != own[i]) for i in range(len(own))])
        hits, wrong = (np.equal(best, x).astype(float) for x in (own, other))
        return look_at(
            *(np.stack([x[:, fold::FOLDS].mean(1) for fold in range(FOLDS)], 1) for x in (hits, wrong)),
            pairs=np.full_like(hits, len(pairs)),
        )

    return look


for _name, _relation in RELATIONS.items():
    kind(
        f"relation {_name.replace('_', ' ')}",
        "head",
        entry="5.1.5",
        citation="Elhelo & Geva 2024",
        looks_at=f"share of subjects for which the head raises {_relation.about} most of all attributes",
        control_is="the attribute of another subject",
        threshold=0.3,
        needs={},
        works=("attributes that heads write",),
    )(_look(_relation))
