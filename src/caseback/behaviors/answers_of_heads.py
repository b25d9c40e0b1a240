"""What heads do to the answers of prompts: functions that examples show, and claims against what is known.

    functions   P(answer | shuffled examples, z_h = its mean at the end of prompts that show the function) - P(answer),
                and the same with its mean where the examples are shuffled
    claims      D_h = direct share of the head in  logit(claimed) - logit(known),  where a context claims either;
                and the same towards another fact's answers

Like what ``answers`` measures of neurons, these are of no table of a stream. Functions are those that the model does
when it is shown them and less surely when it is not, at most four, the surest first; of facts those that it knows.
Queries and subjects of the first half rank heads, those of the second score them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from caseback.behaviors.mechanisms.context_memory import WORDING, known_claims, written
from caseback.behaviors.mechanisms.function_vectors import indirect_effects
from caseback.behaviors.mechanisms.report import LACKING
from caseback.behaviors.mechanisms.shots import SHOT, Shots, halves, shots_of
from caseback.edit.facts import Fact, relation_facts
from caseback.errors import CasebackError, SiteAbsent
from caseback.localize.components.logit_attribution import logit_attribution
from caseback.model.running.metrics import Metric, logit_diff
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.tasks.standard.shots import FUNCTIONS

SHOWN, QUERIES, MOST = 5, 8, 4
"""Examples of a prompt; prompts of a half; functions."""
RIGHT = 0.5
"""The share of the answers that a model must give."""
CLAIMED, KNOWN = ("capital", "language"), 48
"""Relations whose facts are claimed wrongly, and the most facts of each that are asked."""


@dataclass(frozen=True)
class KnownFunction:
    """A function that a model does when examples show it.

    Attributes
    ----------
    name
        Its name in ``FUNCTIONS``.
    shots
        The prompts of either half.
    effect
        (head, prompt), prompts of both halves: how much likelier the answer gets by the head's mean where it is shown.
    other
        The same by its mean where examples are shuffled.
    """

    name: str
    shots: tuple[Shots, Shots]
    effect: Float[np.ndarray, "head prompt"]
    other: Float[np.ndarray, "head prompt"]


def known_functions(model: Model, seed: int) -> list[KnownFunction]:
    """The functions that a model does by examples, with what its heads do for them.

    Raises
    ------
    SiteAbsent
        For a model without a tokenizer, or that does none.
    """
    if model.tokenizer is None:
        raise SiteAbsent("prompts of words need a tokenizer")
    able: list[tuple[float, str, tuple[Shots, Shots]]] = []
    for name, pairs in FUNCTIONS.items():
        try:
            one, two = (shots_of(model, own, own, QUERIES, SHOWN, SHOT, seed) for own in halves(pairs, SHOWN, seed))
        except CasebackError:
            continue  # too few words of it fit this tokenizer
        gains = [_gain(model, shots) for shots in (one, two)]
        if min(right for right, _ in gains) >= RIGHT and (gain := sum(gain for _, gain in gains) / 2) >= LACKING:
            able.append((gain, name, (one, two)))
    if not able:
        raise SiteAbsent(f"{SHOWN} examples of none of {', '.join(FUNCTIONS)} make the model give its answers")
    return [effects_of(model, name, shots) for _, name, shots in sorted(able, key=lambda own: -own[0])[:MOST]]


def _gain(model: Model, shots: Shots) -> tuple[float, float]:
    """The share of right answers, and by how many nats they are likelier than behind shuffled examples."""
    shown, shuffled = (model.run(tokens) for tokens in (shots.prompts.clean, shots.prompts.corrupt))
    gain = shots.log_prob(shown).mean() - shots.log_prob(shuffled).mean()
    return float(shots.is_first(shown).float().mean()), float(gain)


def effects_of(model: Model, name: str, shots: tuple[Shots, Shots]) -> KnownFunction:
    """What heads do for a function, by halves of its prompts."""

    def both(read: Callable[[Shots], Tokens]) -> np.ndarray:
        parts = []
        for own in shots:
            run = model.run(read(own), read=["z"])
            parts.append(_by_head(indirect_effects(model, run, own, "shuffled", "prob")))
        return np.concatenate(parts, 1)

    return KnownFunction(name, shots, both(lambda own: own.prompts.clean), both(lambda own: own.prompts.corrupt))


def _by_head(effects: xr.DataArray) -> np.ndarray:
    """(head, batch): layer by layer, without places of heads that a layer does not have."""
    values = effects.transpose("layer", "head", "batch").values
    values = values.reshape(-1, values.shape[-1])
    return values[~np.isnan(values).all(1)]


@dataclass(frozen=True)
class Claims:
    """Facts that a model knows, behind contexts that claim what is not so.

    Attributes
    ----------
    claims, agrees, elsewhere
        The prompts: the context claims another answer; the known one; the same other answer of another subject, whose
        fact is asked for.
    claimed, known
        The first tokens of the answers.
    second
        Which facts are of the half that heads are scored on.
    effect
        (claims or agrees, head, fact): direct shares in logit(claimed) - logit(known).
    other
        The same towards another fact's answers.

    Both in shares of the mean size of that difference.
    """

    claims: Tokens
    agrees: Tokens
    elsewhere: Tokens
    claimed: list[int]
    known: list[int]
    second: np.ndarray
    effect: Float[np.ndarray, "context head fact"]
    other: Float[np.ndarray, "context head fact"]

    def metric(self, facts: np.ndarray) -> Metric:
        """The logit of what is claimed less that of what is known, of some facts."""
        return logit_diff([self.claimed[i] for i in facts], [self.known[i] for i in facts])


def known_claims_of(model: Model, seed: int) -> list[Claims]:
    """Claims against the facts that a model knows, with what its heads write for either answer.

    Raises
    ------
    SiteAbsent
        For a model without a tokenizer, or that knows too few facts of every relation.
    """
    if model.tokenizer is None:
        raise SiteAbsent("prompts of words need a tokenizer")
    facts: list[tuple[Fact, Fact, int, int]] = []
    reasons: list[CasebackError] = []
    for relation in CLAIMED:
        try:
            own, claimed, known = known_claims(model, relation_facts(relation, seed=seed)[:KNOWN])
        except CasebackError as error:
            reasons.append(error)
            continue
        for i, fact in enumerate(own):
            others = [*range(i + 1, len(own)), *range(i)]
            beside = [own[j] for j in others if _apart(i, j, claimed, known)]
            if beside:
                facts.append((fact, beside[0], claimed[i], known[i]))
    if not facts:
        raise SiteAbsent(f"claims against what is known need facts: {reasons[0] if reasons else 'none has another'}")
    claims, agrees, elsewhere = (
        model.tokens([written(WORDING, *one) for one in some])
        for some in (
            [(fact, fact.new) for fact, *_ in facts],
            [(fact, str(fact.true)) for fact, *_ in facts],
            [(beside, fact.new) for fact, beside, *_ in facts],
        )
    )
    subjects = sorted({fact.subject for fact, *_ in facts})
    random.Random(f"halves {seed}").shuffle(subjects)
    second = np.array([fact.subject in subjects[len(subjects) // 2 :] for fact, *_ in facts])
    claimed, known = [fact[2] for fact in facts], [fact[3] for fact in facts]
    return [claims_of(model, claims, agrees, elsewhere, claimed, known, second, seed)]


def _apart(i: int, j: int, claimed: list[int], known: list[int]) -> bool:
    return not {claimed[i], known[i]} & {claimed[j], known[j]}


def claims_of(
    model: Model,
    claims: Tokens,
    agrees: Tokens,
    elsewhere: Tokens,
    claimed: list[int],
    known: list[int],
    second: np.ndarray,
    seed: int,
) -> Claims:
    """What heads write for what is claimed and for what is known, and for other facts' answers."""
    rng = np.random.default_rng(seed)
    n = len(claimed)
    others = [[j for j in range(n) if _apart(i, j, claimed, known)] for i in range(n)]
    if not all(others):
        raise SiteAbsent("claims against what is known need facts of other answers")
    pick = [int(rng.choice(some)) for some in others]
    own, another = logit_diff(claimed, known), logit_diff([claimed[j] for j in pick], [known[j] for j in pick])
    effect, other = (
        np.stack([_by_head(logit_attribution(model, some, metric, by="head")) for some in (claims, agrees)])
        for metric in (own, another)
    )
    size = float(np.mean([own(model.run(some)).abs().mean().item() for some in (claims, agrees)]))
    return Claims(claims, agrees, elsewhere, claimed, known, second, effect / size, other / size)


OF_HEADS: dict[str, Callable[[Model, int], list[Any]]] = {"functions": known_functions, "claims": known_claims_of}
"""What is measured of heads, by the names that kinds need."""
