"""Heads that find in the context what is asked for, by who, by class, or by whose it is (beyond: B.18; PRIMER 5.4.9).

    query-focused    mean over a question's tokens of a(i, the word asked for), less that under a null question
    filter           a(end, the option of the class asked for) - the largest of a(end, another option)
    binding          a(thing, its owner) - a(thing, another person),  where the owner is often not the nearest

Each with its own null prompts. A query-focused head's control is another person's word; a filter head's the same list
where no class is asked for; a binding head's the same people and things where nobody is said to have them. The largest
of other options is that of means by their place in the list, so that a head of a place has no label.
"""

from __future__ import annotations

import numpy as np

from caseback.behaviors.context_streams import RELATIONS
from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Look, kind, look_at

TABLE = "attention_relations"


def attention(evidence: Evidence, stream: str, label: str) -> np.ndarray:
    """(head, fold): mean attention to the places that a label names."""
    return evidence.by_head(stream, TABLE, "mean", relation=f"to:{label}")


@kind(
    "query-focused retrieval",
    "head",
    entry="5.4.25",
    citation="Zhang et al. 2025",
    looks_at="attention from a question's tokens to the word that it asks for, less that under a null question",
    control_is="the same of another person's word",
    threshold=0.05,
    needs={"questions": (TABLE,)},
    proof="a question without a view of the text",
)
def query_focused(evidence: Evidence) -> Look:
    """Looking at what a question asks for, since it asks for it."""
    gold, other = (
        attention(evidence, "questions", name) - attention(evidence, "questions", f"{name}_null")
        for name in RELATIONS["questions"]
    )
    return look_at(gold, other)


def over_others(evidence: Evidence, end: str) -> np.ndarray:
    """Attention to the right option less the largest of those to others."""
    right, *others = (attention(evidence, "options", f"{name}{end}") for name in RELATIONS["options"])
    return right - np.max(others, axis=0)


@kind(
    "filter",
    "head",
    entry="5.4.25",
    citation="Sharma et al. 2025",
    looks_at="attention from a choice's end to the option of the class asked for, less the largest to another option",
    control_is="the same where no class is asked for",
    threshold=0.1,
    needs={"options": (TABLE,)},
    proof="the query of another choice",
)
def filters(evidence: Evidence) -> Look:
    """Looking at the option that satisfies what is asked."""
    return look_at(over_others(evidence, ""), over_others(evidence, "_null"))


@kind(
    "binding",
    "head",
    entry="5.4.9",
    citation="Feng & Steinhardt 2024",
    looks_at="attention from a thing to its owner, less that to another person who is near",
    control_is="the same where nobody is said to have the thing",
    threshold=0.1,
    needs={"bound": (TABLE,)},
    proof="owners exchanged",
)
def binding(evidence: Evidence) -> Look:
    """Looking from a thing to whose it is."""
    own, null = (
        attention(evidence, "bound", f"owner{end}") - attention(evidence, "bound", f"other{end}")
        for end in ("", "_null")
    )
    return look_at(own, null)
