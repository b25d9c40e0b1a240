"""Neurons that speak for the form that grammar allows (PRIMER 5.2.7).

    score = mean over minimal pairs of A / mean |logit difference|
    A = n_u w_out_u . direction of the right form's logit over the wrong one's,    sum_u A(u) + A(b_out) = A(MLP)

A is a share of the logit difference by the direct path, with the final norm as it is. A neuron's phenomenon is the one
that it speaks for most in half of the pairs; the score is of the other half. The control asks for another pair's
answers: of a neuron that always prefers some forms it is as high.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from caseback.behaviors.answers import GrammarPairs
from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.rows import best, by_layer, neuron_layers


def spoken_for(pairs: list[GrammarPairs], half: slice, *, other: bool = False) -> Float[np.ndarray, "kind neuron"]:
    """Mean shares of the logit difference by phenomenon, in some of the pairs."""
    return np.stack(
        [(one.other if other else one.effect)[half].mean(0) / np.abs(one.logits[half]).mean() for one in pairs]
    )


@kind(
    "grammatical",
    "neuron",
    entry="5.2.7",
    citation="Ferrando et al. 2023",
    looks_at="share of the logit difference of a minimal pair that the neuron writes by the direct path",
    control_is="the same towards another pair's answers",
    threshold=0.02,
    needs={"pairs": ()},
    proof="the right form",
)
def grammatical(evidence: Evidence) -> Look:
    """Speaking for the right form."""
    neuron_layers(evidence)
    pairs = evidence.of_answers("pairs")
    first, second = slice(0, None, 2), slice(1, None, 2)
    own, others = ([spoken_for(pairs, half, other=other) for half in (first, second)] for other in (False, True))
    which, which_of_others = own[0].argmax(0), others[0].argmax(0)
    units = np.arange(own[0].shape[1])
    return Look(
        own[0].max(0),
        own[1][which, units],
        others[1][which_of_others, units],
        best(by_layer(evidence, others[0].max(0)), power=2),
        classes=[pairs[i].phenomenon for i in which],
    )
