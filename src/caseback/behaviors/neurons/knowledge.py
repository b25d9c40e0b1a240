"""Knowledge neurons: they carry one fact in whatever wording it is asked (PRIMER 5.2.6).

    r = Attr / largest Attr of the prompt, less the mean of r over other facts of the relation in the same wording
    score = what r reaches in .7 of a fact's wordings at least;    seen above t = .2

Dai et al. keep neurons above t of a prompt's largest that .7 of a fact's prompts share; the score is the t up to which
a neuron would be kept, and what speaks against an answer counts as nothing. Attr is that of ``answers``, along the
neuron's own path at the last token. Neurons of all facts of a relation, or of whatever is asked for, are no neurons of
one fact, so what others have is taken off. A neuron's fact is the one that it carries best in half of the wordings; the
score is of the other half. In the control each wording is of another fact of the relation.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from caseback.behaviors.answers import KnownFacts
from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.rows import best, by_layer, neuron_layers

SHARED = 0.7
"""The share of a fact's wordings that have the neuron."""


def carried(r: Float[np.ndarray, "wording fact neuron"], *, moved: bool = False) -> Float[np.ndarray, "fact neuron"]:
    """What each fact's own part of r reaches in .7 of the wordings; moved: each wording of another fact.

    Examples
    --------
    >>> r = np.array([[[1.0], [0.0]], [[0.8], [0.2]]])
    >>> carried(r).round(3).tolist(), carried(r, moved=True).round(3).tolist()
    ([[0.6], [-1.0]], [[-0.6], [-1.0]])
    """
    n, r = r.shape[1], np.maximum(r, 0.0)
    own = (r - r.mean(1, keepdims=True)) * n / (n - 1)
    if moved:
        own = np.stack([np.roll(one, i, 0) for i, one in enumerate(own)])
    return np.sort(own, 0)[::-1][math.ceil(SHARED * len(own)) - 1]


def by_fact(facts: list[KnownFacts], half: slice, *, moved: bool = False) -> Float[np.ndarray, "fact neuron"]:
    """The scores of all facts of all relations in some of their wordings."""
    return np.concatenate([carried(one.attribution[half], moved=moved) for one in facts])


@kind(
    "knowledge",
    "neuron",
    entry="5.2.6",
    citation="Dai et al. 2022",
    looks_at="share of the prompt's largest attribution that a fact has in the neuron beyond other facts, in .7 of its "
    "wordings",
    control_is="the same with each wording of another fact",
    threshold=0.2,
    needs={"facts": ()},
    works=("answers without neurons",),
    proof="a fact's answer",
)
def knowledge(evidence: Evidence) -> Look:
    """Carrying one fact."""
    neuron_layers(evidence)
    facts = evidence.of_answers("facts")
    first, second = slice(0, None, 2), slice(1, None, 2)
    own, others = ([by_fact(facts, half, moved=moved) for half in (first, second)] for moved in (False, True))
    which, which_of_others = own[0].argmax(0), others[0].argmax(0)
    units = np.arange(own[0].shape[1])
    names = [name for one in facts for name in one.names]
    return Look(
        own[0].max(0),
        own[1][which, units],
        others[1][which_of_others, units],
        best(by_layer(evidence, others[0].max(0))),
        {"fact": which.astype(float)},
        [names[i] for i in which],
    )
