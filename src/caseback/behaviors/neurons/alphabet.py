"""Neurons that fire by the letter that a token begins with (PRIMER 5.2.16).

    score = max over letters of 1 - [q Var(n | letter) + (1 - q) Var(n | others)] / Var(n)

over tokens past the first four of each row; a neuron's letter is the one that explains most on the half that it is
ranked on. The control gives every token the letter of another token of its row.
"""

from __future__ import annotations

from string import ascii_lowercase

import numpy as np
from jaxtyping import Float

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.by_groups import explained_by_each, groups_of
from caseback.behaviors.neurons.rows import best, by_layer, neuron_layers
from caseback.errors import CasebackError


def _by_letter(evidence: Evidence, permuted: str = "") -> list[Float[np.ndarray, "letter unit"]]:
    names = [f"{permuted}begins with {letter}" for letter in ascii_lowercase]
    return [explained_by_each(fold) for fold in groups_of(evidence, names)]


@kind(
    "alphabet",
    "neuron",
    entry="5.2.16",
    citation="Gurnee et al. 2024",
    looks_at="share of the neuron's variance explained by whether a token begins with one letter",
    control_is="the same with the letters of other tokens of the row",
    threshold=0.2,
    needs={TEXT: ("neuron_groups",)},
)
def alphabet(evidence: Evidence) -> Look:
    """Firing by a first letter."""
    neuron_layers(evidence)
    own, others = _by_letter(evidence), _by_letter(evidence, "permuted ")
    if not own[0].any() or not own[-1].any():
        raise CasebackError("no letter begins enough tokens of either half: give text of a to z, or more of it")
    which, which_of_others = own[0].argmax(0), others[0].argmax(0)
    units = np.arange(len(which))
    return Look(
        own[0].max(0),
        own[-1][which, units],
        others[-1][which_of_others, units],
        best(by_layer(evidence, others[0].max(0))),
        classes=[ascii_lowercase[i] for i in which],
    )
