"""Neurons that fire where a word of several tokens is complete (PRIMER 5.2.14).

    score = share of the variance, over tokens that go on with a word, explained by whether the token is its last

A model that looks back does not see where a word ends: it knows the word. Words are letters between what is none. The
control's ends are those of other tokens of the row.
"""

from __future__ import annotations

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.by_groups import FEWEST, explained_by_mark, groups_of, in_deviations
from caseback.behaviors.neurons.rows import best, by_layer, neuron_layers
from caseback.errors import CasebackError


@kind(
    "word end",
    "neuron",
    entry="5.2.14",
    citation="Elhage et al. 2022, Gurnee et al. 2023",
    looks_at="share of the neuron's variance, over tokens within words, explained by whether the word is complete",
    control_is="the same with ends of other tokens of the row",
    threshold=0.2,
    needs={TEXT: ("neuron_groups",)},
)
def word_end(evidence: Evidence) -> Look:
    """Firing where a word is complete."""
    neuron_layers(evidence)
    ends, others = (groups_of(evidence, [name], "continues a word") for name in ("ends a word", "permuted ends a word"))
    fewest = min(min(fold.n[0], fold.total - fold.n[0]) for fold in (*ends, *others))
    if fewest < FEWEST:
        raise CasebackError(
            f"{fewest:.0f} tokens of a half end a word of several, or go on: expected {FEWEST} of either"
        )
    (ranked_by, score), (first, second) = (
        [explained_by_mark(fold) for fold in x[:: len(x) - 1]] for x in (ends, others)
    )
    beside = {"deviations": in_deviations(ends[-1])}
    return Look(ranked_by, score, second, best(by_layer(evidence, first)), beside)
