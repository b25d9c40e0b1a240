"""Labels of states and one probe a class, as measures of several features of a label need them."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from caseback.decode.probes.setting import Labels
from caseback.errors import CasebackError, OutOfRange, TokensError


class Probe(NamedTuple):
    """A class against all others: it is seen where w x + b > 0."""

    w: Float[np.ndarray, " d"]
    b: float

    def sees(self, x: Float[np.ndarray, "token d"]) -> np.ndarray:
        """At which tokens the class is seen."""
        return x @ self.w + self.b > 0


def classes_of(labels: Labels, n: int, what: str = "labels") -> tuple[list[Any], np.ndarray]:
    """The classes in order, and the number of each token's.

    Raises
    ------
    TokensError
        For another number of labels.
    CasebackError
        For one class, or a class with fewer than 4 tokens.
    """
    try:
        given = labels.tolist() if hasattr(labels, "tolist") else list(labels)  # type: ignore[union-attr]
        known = set(given)
    except TypeError:
        raise CasebackError(f"{what} are a {type(labels).__name__}: expected a class for each token") from None
    if len(given) != n:
        raise TokensError(f"{len(given)} {what} for {n} states: expected one for each")
    classes = sorted(known, key=lambda label: (str(type(label)), label))
    numbers = {label: number for number, label in enumerate(classes)}
    y = np.array([numbers[label] for label in given])
    rarest = int(np.bincount(y).min()) if n else 0
    if len(classes) < 2 or rarest < 4:
        raise CasebackError(
            f"{what}: {len(classes)} classes, the rarest of {rarest} tokens; expected two or more, of 4 or more each"
        )
    return classes, y


def held_out_tokens(y: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A mask: of each class a drawn share, one token at least on either side.

    Raises
    ------
    OutOfRange
        For what is no share.
    """
    if not 0 < share < 1:
        raise OutOfRange(f"held_out is {share}: expected a share between 0 and 1")
    random = np.random.default_rng(seed)
    held = np.zeros(len(y), dtype=bool)
    for number in range(int(y.max()) + 1):
        own = random.permutation(np.flatnonzero(y == number))
        held[own[: min(len(own) - 1, max(1, round(share * len(own))))]] = True
    return held


def probe_of(x: Float[np.ndarray, "token d"], y: np.ndarray) -> Probe:
    """Logistic regression of standardized coordinates, both kinds of equal weight."""
    scale = x.std(0)
    scale[scale == 0] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(class_weight="balanced", max_iter=500).fit(x / scale, y)
    return Probe(fitted.coef_[0] / scale, float(fitted.intercept_[0]))
