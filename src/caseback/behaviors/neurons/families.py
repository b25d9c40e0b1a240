"""Neurons that fire by what a token is, or by what the token before it is (PRIMER 5.2.14, 5.2.16).

    score = 1 - [q Var(n | mark) + (1 - q) Var(n | none)] / Var(n),    over tokens past the first four of each row

Marks follow from the token's text alone (``KINDS``). The control gives every token the marks of another token of its
row, which leaves their number, the documents and the neuron as they are.
"""

from __future__ import annotations

from collections.abc import Callable

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.by_groups import FEWEST, explained_by_mark, groups_of, in_deviations
from caseback.behaviors.neurons.rows import best, by_layer, neuron_layers
from caseback.errors import CasebackError
from caseback.stream.marks import KINDS

NAMES = {
    "starts_word": "word start",
    "letters": "letters",
    "upper": "upper case",
    "title": "capitalized",
    "digits": "digits",
    "punctuation": "punctuation",
    "newline": "newline",
    "non_ascii": "non-ASCII",
}
"""What kinds of neurons are called, by the bits of ``KINDS``; special tokens have none."""


def _look(group: str, permuted: str) -> Callable[[Evidence], Look]:
    def look(evidence: Evidence) -> Look:
        neuron_layers(evidence)
        marked, others = (groups_of(evidence, [name]) for name in (group, permuted))
        fewest = min(min(fold.n[0], fold.total - fold.n[0]) for fold in marked)
        if fewest < FEWEST:
            raise CasebackError(f"{fewest:.0f} tokens of a half are {group!r} or are not: expected {FEWEST} of either")
        ranked_by, score = (explained_by_mark(fold) for fold in (marked[0], marked[-1]))
        first, second = (explained_by_mark(fold) for fold in (others[0], others[-1]))
        return Look(
            ranked_by, score, second, best(by_layer(evidence, first)), {"deviations": in_deviations(marked[-1])}
        )

    return look


for _bit, _words in ((bit, NAMES[bit]) for bit in KINDS if bit in NAMES):
    for _name, _group, _what in ((_words, _bit, "is"), (f"after {_words}", f"after {_bit}", "follows")):
        kind(
            _name,
            "neuron",
            entry="5.2.16",
            citation="Gurnee et al. 2024",
            looks_at=f"share of the neuron's variance explained by whether a token {_what} {_words!r}",
            control_is="the same with the marks of another token of the row",
            threshold=0.2,
            needs={TEXT: ("neuron_groups",)},
        )(_look(_group, f"permuted {_bit}"))

kind(
    "repeated token",
    "neuron",
    entry="5.2.16",
    citation="Gurnee et al. 2024",
    looks_at="share of the neuron's variance explained by whether the token stood in the row before",
    control_is="the same of whether another token of the row starts a word",
    threshold=0.2,
    needs={TEXT: ("neuron_groups",)},
)(_look("repeats", "permuted starts_word"))
