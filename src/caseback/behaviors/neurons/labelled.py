"""Neurons that tell what a text is: its domain, language, task's answer, concept, sentiment (PRIMER 5.2.2 to 5.2.9).

    domain, sentiment    2 AUROC - 1 of the text's mean activation, one class against the others
    skill                share of the class above the neuron's mean, less that of the others
    concept              average precision of the text's largest activation, from chance (0) to all
    language             1 - entropy over languages of the share of tokens at which the neuron's gate is open (LAPE)
    space, time          rank correlation of the text's mean activation with its coordinates, or its year

Texts have these labels from the corpus (``labelled``). Where a language is told, so is its spelling: a neuron of Greek
letters is one of Greek. The band permutes labels among documents; the class is chosen on the other half of them.
"""

from __future__ import annotations

from collections.abc import Callable

from caseback.behaviors.by_class import (
    auroc,
    look_at_classes,
    look_at_numbers,
    look_at_sparsity,
    precision,
    threshold,
)
from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.rows import neuron_layers

TABLE = "neuron_documents"
PERMUTED = "the same with the labels of other documents"


def _kind(name: str, entry: str, citation: str, looks_at: str, least: float, measure: Callable, either: bool) -> None:
    def look(evidence: Evidence) -> Look:
        neuron_layers(evidence)
        return look_at_classes(evidence, TABLE, name, measure, either=either)

    kind(
        name,
        "neuron",
        entry=entry,
        citation=citation,
        looks_at=looks_at,
        control_is=PERMUTED,
        threshold=least,
        needs={TEXT: (TABLE,)},
        proof=f"loss by {name}",
    )(look)


_kind(
    "domain",
    "5.2.3",
    "Gurnee et al. 2023",
    "how well the text's mean activation tells one domain from the others (AUROC, between chance and 1)",
    0.9,
    auroc,
    either=True,
)
_kind(
    "sentiment",
    "5.2.4",
    "Radford et al. 2017",
    "how well the text's mean activation tells its sentiment (AUROC, between chance and 1)",
    0.6,
    auroc,
    either=True,
)
_kind(
    "skill",
    "5.2.2",
    "Wang et al. 2022",
    "share of a label's texts above the neuron's mean, less that of the others",
    0.6,
    threshold,
    either=True,
)
_kind(
    "concept",
    "5.2.3",
    "Suau et al. 2022",
    "average precision of the text's largest activation for a concept, between chance and 1",
    0.6,
    precision,
    either=False,
)


@kind(
    "language",
    "neuron",
    entry="5.2.9",
    citation="Tang et al. 2024",
    looks_at="1 less the entropy, over languages, of how often the neuron fires",
    control_is=PERMUTED,
    threshold=0.3,
    needs={TEXT: (TABLE,)},
    proof="loss by language",
)
def language(evidence: Evidence) -> Look:
    """Firing in one language."""
    neuron_layers(evidence)
    return look_at_sparsity(evidence, TABLE, "language")


def _numbers(name: str, labels: tuple[str, ...], words: str) -> None:
    def look(evidence: Evidence) -> Look:
        neuron_layers(evidence)
        return look_at_numbers(evidence, TABLE, labels)

    kind(
        name,
        "neuron",
        entry="5.2.8",
        citation="Gurnee and Tegmark 2024",
        looks_at=f"size of the rank correlation of the text's mean activation with its {words}",
        control_is="the same with the numbers of other documents",
        threshold=0.4,
        needs={TEXT: (TABLE,)},
    )(look)


_numbers("space", ("latitude", "longitude"), "latitude or longitude")
_numbers("time", ("year",), "year")
