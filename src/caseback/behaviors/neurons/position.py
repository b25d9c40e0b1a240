"""Neurons that fire by the token's place in the row (PRIMER 5.2.1).

    score = eta^2 of the mean by bins of positions, from the fifth on, less chance;    beside: I(fires; bin) in nats

Bins double: 4-7, 8-15, 16-31 ... The control gives each token the place of another token of its row. What a neuron does
at the first four tokens, where heads rest, is not in the score.
"""

from __future__ import annotations

import numpy as np

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.by_groups import Groups, explained_by_bins, groups_of, information
from caseback.behaviors.neurons.rows import best, by_layer, neuron_layers


def rank_of_place(groups: Groups) -> np.ndarray:
    """How monotone: the rank correlation of bins' means with their order, -1 to 1."""
    held = groups.mean[groups.n > 0]
    ranks = held.argsort(0).argsort(0) - (len(held) - 1) / 2
    order = np.arange(len(held)) - (len(held) - 1) / 2
    return order @ ranks / (order @ order)


@kind(
    "position",
    "neuron",
    entry="5.2.1",
    citation="Voita et al. 2023",
    looks_at="share of the neuron's variance explained by the token's place in the row, from the fifth on",
    control_is="the same with the places of other tokens of the row",
    threshold=0.1,
    needs={TEXT: ("neuron_groups",)},
)
def position(evidence: Evidence) -> Look:
    """Firing by place."""
    neuron_layers(evidence)
    every = [str(name) for name in evidence.folds(TEXT, "neuron_groups")[0]["group"].values]
    bins = [name for name in every if name.startswith("position ")]
    own, others = (groups_of(evidence, names) for names in (bins, [f"permuted {name}" for name in bins]))
    ranked_by, score, first, second = (explained_by_bins(fold) for fold in (own[0], own[-1], others[0], others[-1]))
    beside = {"nats": information(own[-1]), "monotone": rank_of_place(own[-1])}
    return Look(ranked_by, score, second, best(by_layer(evidence, first)), beside)
