"""Scores of explanations: correlation of simulated with true activations, balanced accuracy of yes or no."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caseback.errors import CasebackError


def correlation(simulated: Sequence[float], true: Sequence[float]) -> float:
    """Pearson's correlation; 0 where either is constant, since what always says the same explains nothing.

    Examples
    --------
    >>> round(correlation([0, 1, 2], [1, 3, 5]), 6), correlation([1, 1, 1], [1, 3, 5])
    (1.0, 0.0)
    """
    x, y = np.asarray(simulated, dtype=float), np.asarray(true, dtype=float)
    if x.shape != y.shape or x.ndim != 1:
        raise CasebackError(f"{x.shape} simulated and {y.shape} true activations: expected one of each per token")
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def balanced_accuracy(answers: Sequence[bool | None], true: Sequence[bool]) -> float:
    """The mean of the accuracies on what is true and on what is not; no answer counts half, as a guess would.

    NaN where one of the two kinds is missing: then always saying the same would look right.

    Examples
    --------
    >>> balanced_accuracy([True, True, True], [True, True, False]), balanced_accuracy([None, None], [True, False])
    (0.5, 0.5)
    """
    parts = []
    for kind in (True, False):
        right = [0.5 if s is None else float(s == t) for s, t in zip(answers, true, strict=True) if t == kind]
        if not right:
            return float("nan")
        parts.append(sum(right) / len(right))
    return sum(parts) / 2
