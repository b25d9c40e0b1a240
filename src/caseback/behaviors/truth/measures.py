"""How well scores tell true from false, and how far probabilities of them can be believed.

    AUROC       how often a true statement has the higher score, ties counting half
    Platt       p = sigmoid(a s + b), fitted where nothing is judged
    Brier       mean (p - y)^2          ECE: expected calibration error, in 15 bins of confidence

Intervals are percentiles over resampled facts: statements of one fact come and go together.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.behaviors.truth.plane import NEARLY_NONE, classifier
from caseback.decode.probes.calibration import calibration_error

ENDS = (2.5, 97.5)


def auroc(
    scores: Float[np.ndarray, " example"],
    true: Bool[np.ndarray, " example"],
    weights: Float[np.ndarray, "draw example"] | None = None,
) -> Float[np.ndarray, " draw"]:
    """The area under the curve, with a weight for each example in each draw; NaN where a class is absent.

    Examples
    --------
    >>> auroc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
    array([0.875])
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    order = np.argsort(scores, kind="stable")
    distinct, number = np.unique(scores[order], return_inverse=True)
    first = np.searchsorted(number, np.arange(len(distinct)))
    mass = [np.add.reduceat(weights[:, order] * kind[order], first, axis=1) for kind in (true, ~true)]
    below = np.cumsum(mass[1], axis=1) - mass[1] / 2
    whole = mass[0].sum(1) * mass[1].sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (mass[0] * below).sum(1) / whole


def resampled(fact: Int[np.ndarray, " example"], draws: int, seed: int) -> Float[np.ndarray, "draw example"]:
    """How often each example is drawn: facts are, with replacement, as many as there are."""
    distinct, number = np.unique(fact, return_inverse=True)
    rng = np.random.default_rng(seed)
    return rng.multinomial(len(distinct), np.full(len(distinct), 1 / len(distinct)), size=draws)[:, number].astype(
        float
    )


def interval(values: Float[np.ndarray, " draw"]) -> tuple[float, float]:
    """Where the middle 95 % of draws lie."""
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.percentile(values, ENDS)
    return float(low), float(high)


def within_topics(
    scores: Float[np.ndarray, " example"], true: Bool[np.ndarray, " example"], topic: Int[np.ndarray, " example"]
) -> dict[int, float]:
    """The area under the curve of each topic by itself, where it has both classes."""
    own = {int(t): float(auroc(scores[topic == t], true[topic == t])[0]) for t in np.unique(topic)}
    return {t: value for t, value in own.items() if not np.isnan(value)}


def platt(scores: Float[Tensor, " example"], true: Bool[Tensor, " example"]) -> tuple[float, float]:
    """A and b of p = sigmoid(a s + b); Platt's own targets are not smoothed, a trace of a penalty is put on a."""
    w, b = classifier(scores.double()[None, :, None], true, NEARLY_NONE)
    return float(w[0, 0]), float(b[0])


def calibration(
    probability: Float[np.ndarray, " example"], true: Bool[np.ndarray, " example"]
) -> tuple[float, float, float]:
    """Accuracy at one half, the Brier score, and the expected calibration error."""
    says = probability > 0.5
    confidence = torch.from_numpy(np.maximum(probability, 1 - probability))[None]
    right = torch.from_numpy(says == true)[None]
    brier = float(((probability - true) ** 2).mean())
    return float((says == true).mean()), brier, float(calibration_error(confidence, right)[0])
