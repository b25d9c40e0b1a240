"""How many different things a model says where it is asked the same question several times.

    H = - sum_c p_c log p_c        c: answers that mean the same;  p_c: their share, or their share of the likelihood

An answer joins the first cluster whose first member it means the same as. What is the same is a function of two texts;
by default they are, but for case, articles, punctuation and what is no letter or figure. (Kuhn et al. 2023; Farquhar et
al. 2024; the probe: Kossen et al. 2024)
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from caseback.behaviors.truth.eigenscore import expect_samples, numbers_of
from caseback.errors import CasebackError
from caseback.model.registry import technique
from caseback.model.results import labelled

Same = Callable[[str, str], bool]
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@technique(entry=("5.4.20",), citation="Kuhn et al. 2023; Farquhar et al. 2024", cost="no model is run")
def semantic_entropy(
    samples: Sequence[Sequence[str]],
    log_probs: Any = None,
    *,
    same: Same | None = None,
) -> xr.Dataset:
    """Measure the entropy of what several answers to a question mean.

    Parameters
    ----------
    samples
        Of each question the answers that were drawn.
    log_probs
        (batch, k): of each answer its log probability by token (the mean, so that length does not count), whose share
        is then a cluster's; without it each answer counts the same.
    same
        Whether two texts mean the same, given the cluster's first member and the newcomer: an entailment model both
        ways, say. By default texts that are the same words.

    Returns
    -------
    xr.Dataset
        Over ``batch``: ``entropy`` in nats, from 0 (all mean the same) to the logarithm of k, and ``clusters``, how
        many there are.

    Raises
    ------
    OutOfRange
        For fewer than two answers.
    CasebackError
        For no question, answers that are not text, and log probabilities of another shape or that are not finite.

    Notes
    -----
    Entry 5.4.20: Kuhn et al. 2023; Farquhar et al. 2024, whose relation is a model of entailment, not strict: no
    contradiction either way, and not neutral both ways.

    Examples
    --------
    >>> found = semantic_entropy([["Paris", "paris.", "The Paris", "Rome"], ["a", "b", "c", "d"]])
    >>> found["clusters"].values.tolist(), found["entropy"].values.round(3).tolist()
    ([2, 4], [0.562, 1.386])
    """
    if not samples:
        raise CasebackError("no question is given: expected answers to one or more")
    for row, answers in enumerate(samples):
        expect_samples(len(answers))
        if isinstance(answers, str) or not all(isinstance(text, str) for text in answers):
            raise CasebackError(f"answers to question {row} are {answers!r}: expected texts")
    weights: list[np.ndarray] = [np.zeros(len(answers)) for answers in samples]
    if log_probs is not None:
        given = numbers_of(log_probs, 2, "log_probs", "(batch, k)").cpu().numpy()
        if given.shape != (len(samples), len(samples[0])) or any(len(one) != given.shape[1] for one in samples):
            raise CasebackError(
                f"log_probs of shape {given.shape}: expected one for each of {len(samples)} x k answers"
            )
        weights = list(given)
    numbers = [clusters(answers, same or same_words) for answers in samples]
    entropy = [_entropy(number, weight) for number, weight in zip(numbers, weights, strict=True)]
    how = {"technique": semantic_entropy, "weighted": log_probs is not None}
    arrays = {
        "entropy": labelled(np.array(entropy), ["batch"], name="entropy", **how),
        "clusters": labelled(np.array([max(number) + 1 for number in numbers]), ["batch"], name="clusters", **how),
    }
    return xr.Dataset(arrays, attrs=arrays["entropy"].attrs)


def clusters(answers: Sequence[str], same: Same) -> list[int]:
    """The number of each answer's cluster, in order of their first members.

    Examples
    --------
    >>> clusters(["Rome", "Oslo", "rome!"], same_words)
    [0, 1, 0]
    """
    firsts: list[str] = []
    numbers: list[int] = []
    for answer in answers:
        number = next((i for i, first in enumerate(firsts) if same(first, answer)), len(firsts))
        if number == len(firsts):
            firsts.append(answer)
        numbers.append(number)
    return numbers


def same_words(one: str, other: str) -> bool:
    """Whether two texts are the same words."""
    return plain_words(one) == plain_words(other)


def plain_words(text: str) -> str:
    """A text without case, articles and whatever is no letter or figure.

    Examples
    --------
    >>> plain_words(" The  Hague, (NL)")
    'hague nl'
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = "".join(c if c.isalnum() else " " for c in text)
    return " ".join(_ARTICLES.sub(" ", text).split())


def _entropy(number: list[int], weight: Float[np.ndarray, " k"]) -> float:
    mass = np.bincount(number, weights=np.exp(weight - weight.max()))
    p = mass / mass.sum()
    return float(-(p * np.log(p, where=p > 0, out=np.zeros_like(p))).sum() + 0.0)


def entropy_threshold(values: Float[np.ndarray, " batch"]) -> float:
    """Between which two values the squares within the two groups are least (Kossen et al. 2024).

    Examples
    --------
    >>> entropy_threshold(np.array([0.0, 0.1, 1.0, 1.2]))
    0.55
    """
    ordered = np.unique(values)
    if len(ordered) < 2:
        return float(ordered[0])
    middles = (ordered[1:] + ordered[:-1]) / 2
    low: Int[np.ndarray, "cut batch"] = values <= middles[:, None]
    n = low.sum(1)
    sums = low @ values
    # squares within = all squares - n m^2 of each group
    between = sums**2 / n + (values.sum() - sums) ** 2 / (len(values) - n)
    return float(middles[between.argmax()])
