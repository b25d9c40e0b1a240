"""Heads that look for earlier occurrences: duplicate-token and induction heads (PRIMER 5.1.4, 5.1.6).

    duplicate    a(i, where the token stood before) - uniform
    induction    a(i, the place behind that) - uniform,    the smaller of a plain repetition and a permuted one

In a plain repetition a head of a fixed distance (k - 1 back) looks like an induction head; in a permutation only one
that matches tokens does. The control is attention to the same places where no token stood before.
"""

from __future__ import annotations

import numpy as np

from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Look, kind, look_at

NEEDS = {name: ("attention_relations",) for name in ("repeated", "shuffled", "fresh")}


def excess(evidence: Evidence, stream: str, relation: str) -> np.ndarray:
    """(head, fold): attention on a relation over its uniform share."""
    mean = evidence.by_head(stream, "attention_relations", "mean", relation=relation)
    return mean - evidence.by_layer(stream, "attention_relations", "uniform", relation=relation)


def _matching(evidence: Evidence, relation: str) -> Look:
    plain, permuted = (excess(evidence, stream, relation) for stream in ("repeated", "shuffled"))
    beside = {"plain repetition": plain, "permuted repetition": permuted}
    return look_at(np.minimum(plain, permuted), excess(evidence, "fresh", relation), **beside)


@kind(
    "duplicate token",
    "head",
    entry="5.1.4",
    citation="Wang et al. 2023",
    looks_at="attention to where the token stood before, over uniform attention",
    control_is="the same places where it did not stand before",
    threshold=0.2,
    needs=NEEDS,
    proof="named twice",
)
def duplicate_token(evidence: Evidence) -> Look:
    """Attention to the earlier same token."""
    return _matching(evidence, "to:same")


@kind(
    "induction",
    "head",
    entry="5.1.6",
    citation="Elhage et al. 2021, Olsson et al. 2022",
    looks_at="attention to what followed the token before, over uniform attention",
    control_is="the same places where it did not stand before",
    threshold=0.3,
    needs=NEEDS,
    proof="second copy",
)
def induction(evidence: Evidence) -> Look:
    """Attention to the token behind the earlier same one."""
    return _matching(evidence, "to:next")
