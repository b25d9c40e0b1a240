"""Neurons that speak for the form that grammar allows (PRIMER 5.2.7).

    score = mean over minimal pairs of A / mean |logit difference|
    A = n_u w_out_u . direction of the right form's logit over the wrong one's,    sum_u A(u) + A(b_out) = A(MLP)

A is a share of the logit difference by the direct path, with the final norm as it is. A neuron's phenomenon is the one
that it speaks for most, in its standard errors, in half of the pairs; the score is of the other half. The control asks
for another pair's answers: of a neuron that always prefers some forms it is as high. Neurons that write much vary much
there, so each has a band of its own: as many of its standard errors as the best of all has in the control.
"""

from __future__ import annotations

import numpy as np

from caseback.behaviors.answers import GrammarPairs
from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.rows import best, by_layer, neuron_layers


@kind(
    "grammatical",
    "neuron",
    entry="5.2.7",
    citation="Ferrando et al. 2023",
    looks_at="share of the logit difference of a minimal pair that the neuron writes by the direct path",
    control_is="the same towards another pair's answers",
    threshold=0.02,
    needs={"pairs": ()},
    works=("answers of minimal pairs",),
    proof="the right form",
)
def grammatical(evidence: Evidence) -> Look:
    """Speaking for the right form."""
    neuron_layers(evidence)
    pairs: list[GrammarPairs] = evidence.of_answers("pairs")
    own, others, error = (np.stack(of, 1) for of in zip(*((p.effect, p.other, p.error) for p in pairs), strict=True))
    tiny = np.finfo(float).tiny
    in_errors, by_chance = (of[0] / np.maximum(error[0], tiny) for of in (own, others))
    which, which_of_others = in_errors.argmax(0), by_chance.argmax(0)
    units = np.arange(own.shape[2])
    many = best(by_layer(evidence, by_chance.max(0)), power=2)
    return Look(
        own[0, which, units],
        own[1, which, units],
        others[1, which_of_others, units],
        many * error[1, which, units],
        {"in errors": own[1, which, units] / np.maximum(error[1, which, units], tiny)},
        [pairs[i].phenomenon for i in which],
    )
