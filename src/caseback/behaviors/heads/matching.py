"""Heads that match by more than one same token, or by less (PRIMER 5.1.6).

    n-gram induction     a(i, c) - a(i, e)    where two tokens stood before c and one of them before e
    fuzzy induction      a(i, the place behind the token with the nearest embedding) - uniform
    concept induction    a(i, the last token of the word that stood behind the token before) - uniform
    anti-induction       induction's score, of heads that lower what they look at (``anti-copying``)

A head that matches one token alone looks at c and e alike, at a word's first token, and at nothing where no token comes
again. The controls are the same places where what stands before is new.
"""

from __future__ import annotations

import numpy as np

from caseback.behaviors.evidence import Evidence
from caseback.behaviors.heads.repeats import NEEDS, excess
from caseback.behaviors.heads.vocabulary import of_lowering
from caseback.behaviors.kinds import Look, kind, look_at


def _relations(stream: str) -> dict[str, tuple[str, ...]]:
    return {stream: ("attention_relations",)}


@kind(
    "n-gram induction",
    "head",
    entry="5.1.6",
    citation="Akyurek et al. 2024",
    looks_at="attention to what followed the two tokens before, less that to what followed the last of them elsewhere",
    control_is="the same two places where the first of the two is a new token",
    threshold=0.3,
    needs=_relations("prefixes"),
    proof="second copy",
)
def ngram_induction(evidence: Evidence) -> Look:
    """Attention that needs two tokens to match."""
    read = lambda name: evidence.by_head("prefixes", "attention_relations", "mean", relation=f"to:{name}")  # noqa: E731
    matched, unmatched = read("matched"), read("unmatched")
    absent = read("matched_absent") - read("unmatched_absent")
    return look_at(matched - unmatched, absent, matched=matched, unmatched=unmatched)


@kind(
    "fuzzy induction",
    "head",
    entry="5.1.6",
    citation="Olsson et al. 2022",
    looks_at="attention to what followed the token with the nearest embedding, over uniform attention",
    control_is="the same places where no like token stood before",
    threshold=0.2,
    needs={**_relations("neighbors"), **_relations("fresh")},
    proof="second copy",
)
def fuzzy_induction(evidence: Evidence) -> Look:
    """Attention to the token behind an earlier like one."""
    return look_at(excess(evidence, "neighbors", "to:next"), excess(evidence, "fresh", "to:next"))


@kind(
    "concept induction",
    "head",
    entry="5.1.6",
    citation="Feucht et al. 2025",
    looks_at="attention to the last token of the word that followed the token before, over uniform attention",
    control_is="the same places where a new token stands before",
    threshold=0.1,
    needs=_relations("entities"),
    proof="second copy",
)
def concept_induction(evidence: Evidence) -> Look:
    """Attention to the end of the word that comes."""
    return look_at(*(excess(evidence, "entities", f"to:{name}") for name in ("last", "last_absent")))


@kind(
    "anti-induction",
    "head",
    entry="5.1.6",
    citation="Olsson et al. 2022, McDougall et al. 2023",
    looks_at="attention to what followed the token before, over uniform attention, of heads that lower what they see",
    control_is="the same places where it did not stand before",
    threshold=0.2,
    needs=NEEDS,
    works=("tokens that heads write",),
    proof="second copy",
    sign=1,
)
def anti_induction(evidence: Evidence) -> Look:
    """Induction's attention with the opposite writing."""
    plain, permuted, absent = (excess(evidence, name, "to:next") for name in ("repeated", "shuffled", "fresh"))
    return of_lowering(evidence, np.minimum(plain, permuted), absent)
