"""Heads by what they do to answers: of functions that examples show, and of claims against what is known.

    function vector     P(answer | shuffled examples, z_h = mean where the function is shown) at the end, less the same
                        with its mean where examples are shuffled
    context answer      min(D_claims, -D_agrees)       speaks for what the context claims, whatever that is
    memory answer       min(-D_claims, -D_agrees)      speaks for what is known, whatever is claimed

D is the direct share in logit(claimed) - logit(known), over the mean size of that difference, where the context claims
what is not so or agrees. DLA(memory) - DLA(context) alone is -D_claims, in which a head that speaks against every claim
looks like memory. The control takes the mean of the two, which is no less. (PRIMER 5.4.1, 5.4.22)
"""

from __future__ import annotations

import numpy as np

from caseback.behaviors.answers_of_heads import Claims, KnownFunction
from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Look, kind, look_at
from caseback.model.findings import band_of_best


@kind(
    "function vector",
    "head",
    entry="5.4.1",
    citation="Todd et al. 2024",
    looks_at="how much likelier a function's answer gets behind shuffled examples, by the head's mean at the end of "
    "prompts that show the function, less that by the control's",
    control_is="the same by its mean at the end of prompts whose examples are shuffled",
    threshold=0.01,
    needs={"functions": ()},
    works=("functions by heads",),
    proof="a function without examples",
    sign=1,
)
def function_vector(evidence: Evidence) -> Look:
    """Carrying the function that examples show."""
    functions: list[KnownFunction] = evidence.of_answers("functions")

    def dealt(values: list[np.ndarray]) -> np.ndarray:
        """First halves of all functions, then second ones."""
        return np.concatenate([part for half in (0, 1) for part in (np.split(of, 2, 1)[half] for of in values)], 1)

    own, other = dealt([of.effect for of in functions]), dealt([of.other for of in functions])
    beside = {f"{of.name}": of.effect for of in functions}
    return look_at(own - other, other, **beside)


def _look(evidence: Evidence, sign: int) -> Look:
    claims: Claims
    (claims,) = evidence.of_answers("claims")
    own, other = (np.stack([sign * values[0], -values[1]]) for values in (claims.effect, claims.other))
    ranked_by, score = (own[..., half].mean(-1).min(0) for half in (~claims.second, claims.second))
    by_chance, control = (other[..., half].mean(0) for half in (~claims.second, claims.second))
    return Look(ranked_by, score, control.mean(-1), band_of_best(by_chance))


@kind(
    "context answer",
    "head",
    entry="5.4.22",
    citation="Yu et al. 2023",
    looks_at="share of the claimed answer's logit over another that the head writes, where the claim is false or where "
    "it agrees with what is known, whichever is less",
    control_is="the mean of both towards another fact's answers",
    threshold=0.02,
    needs={"claims": ()},
    works=("claims by heads",),
    proof="a claim that agrees",
)
def context_answer(evidence: Evidence) -> Look:
    """Speaking for what the context claims."""
    return _look(evidence, 1)


@kind(
    "memory answer",
    "head",
    entry="5.4.22",
    citation="Yu et al. 2023",
    looks_at="share of the known answer's logit over another that the head writes, where the context claims the other "
    "or agrees, whichever is less",
    control_is="the mean of both towards another fact's answers",
    threshold=0.02,
    needs={"claims": ()},
    works=("claims by heads",),
    proof="the same claim of another subject",
)
def memory_answer(evidence: Evidence) -> Look:
    """Speaking for what is known."""
    return _look(evidence, -1)
