"""States whose features are known: a truth to find again, with what makes it hard in real ones.

    x = sum_i c_i u_i + noise                more directions than dimensions, of which few are active at once
    c_i > 0 with probability p_i             p falls as a power of the rank; features of a group fire together
    a child fires only where its parent does

In the manner of SynthSAEBench (Chanin & Garriga-Alonso 2026): a dictionary that explains most of the variance there may
hold few of the true features, which no number without a truth shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import norm
from torch import Tensor

from caseback.errors import ArgumentError, OutOfRange
from caseback.model.arguments import checked


@dataclass(frozen=True, eq=False)
class Planted:
    """States and the features that they are made of.

    Attributes
    ----------
    states
        (token, d).
    codes
        (token, feature), how much of each feature there is; 0 where it is not active.
    directions
        (feature, d), of norm 1.
    parents
        (feature,) the feature without which each one is never active; -1 for none.
    """

    states: Float[Tensor, "token d"]
    codes: Float[Tensor, "token feature"]
    directions: Float[Tensor, "feature d"]
    parents: Int[Tensor, " feature"]

    @property
    def firing(self) -> Tensor:
        """Where each feature is active, as a mask."""
        return self.codes != 0

    def __repr__(self) -> str:
        n, d = self.states.shape
        l0 = float(self.firing.sum(1).double().mean())
        return f"Planted({n} states of {d} numbers, {len(self.directions)} features, {l0:.1f} at once)"


@checked
def planted_features(
    d: int,
    n_features: int,
    n_tokens: int,
    *,
    l0: float | None = None,
    zipf: float = 0.0,
    probabilities: Sequence[float] | None = None,
    group_size: int = 1,
    correlation: float = 0.0,
    parents: Sequence[int] | None = None,
    magnitude: float = 1.0,
    spread: float = 0.1,
    noise: float = 0.0,
    orthogonal: bool | None = None,
    seed: int = 0,
) -> Planted:
    """Plant features and draw states of them.

    Parameters
    ----------
    d
        Width of the states.
    n_features
        How many features; with more than ``d`` they are in superposition.
    n_tokens
        How many states.
    l0
        Features without a parent that are active at once, on average; a tenth of ``d``, or of the features where these
        are fewer, unless given.
    zipf
        How fast probabilities fall with the rank r, as r^-zipf; 0: all are the same.
    probabilities
        Of each feature, in place of ``l0`` and ``zipf``; a child's is that given its parent.
    group_size
        Features in a group, one after another.
    correlation
        Of what features of a group fire by, two Gaussians that pass a threshold each; from 0, independent, to below 1.
    parents
        For each feature the earlier one that it needs, or -1. Without ``probabilities`` a child fires at half of its
        parent's tokens.
    magnitude, spread
        Mean and standard deviation of how much there is of an active feature; never below a hundredth of the mean.
    noise
        Standard deviation of what is added to every number.
    orthogonal
        Whether directions are; by default where there are at most ``d``. Otherwise they are random.
    seed
        Same seed, same states.

    Returns
    -------
    Planted
        In float64.

    Raises
    ------
    OutOfRange
        For sizes below 1, probabilities outside 0 to 1, an ``l0`` that cannot be had, negative widths of
        distributions.
    ArgumentError
        For parents that do not come before their children, lists of another length, more orthogonal directions than
        dimensions.

    Examples
    --------
    >>> planted_features(16, 64, 1000, l0=3, zipf=0.5)
    Planted(1000 states of 16 numbers, 64 features, 3.1 at once)
    >>> pair = planted_features(8, 2, 500, probabilities=[0.3, 0.5], parents=[-1, 0])
    >>> bool((pair.firing[:, 1] <= pair.firing[:, 0]).all())
    True
    """
    for name, size in (("d", d), ("n_features", n_features), ("n_tokens", n_tokens), ("group_size", group_size)):
        if size < 1:
            raise OutOfRange(f"{name} is {size}: expected 1 or more")
    if not 0 <= correlation < 1 or magnitude <= 0 or spread < 0 or noise < 0:
        raise OutOfRange(
            f"correlation {correlation}, magnitude {magnitude}, spread {spread}, noise {noise}: expected a correlation "
            "from 0 to below 1, a magnitude above 0 and no negative widths"
        )
    above = _parents(parents, n_features)
    p = _probabilities(probabilities, above, l0 if l0 is not None else min(d, n_features) / 10, zipf)
    draw = np.random.default_rng(seed)
    directions = _directions(draw, n_features, d, n_features <= d if orthogonal is None else orthogonal)
    groups = np.arange(n_features) // group_size
    shared = draw.standard_normal((n_tokens, groups[-1] + 1))[:, groups]
    own = draw.standard_normal((n_tokens, n_features))
    fires = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own < norm.ppf(p)
    for child in np.flatnonzero(above >= 0):  # in rising order, so that parents are done
        fires[:, child] &= fires[:, above[child]]
    amounts = (magnitude + spread * draw.standard_normal(fires.shape)).clip(magnitude / 100)
    codes = np.where(fires, amounts, 0.0)
    states = codes @ directions + noise * draw.standard_normal((n_tokens, d))
    return Planted(*map(torch.from_numpy, (states, codes, directions, above)))


def _parents(parents: Sequence[int] | None, n: int) -> np.ndarray:
    above = np.full(n, -1) if parents is None else np.asarray(parents, dtype=np.int64)
    if len(above) != n or (above < -1).any() or (above >= np.arange(n)).any():
        raise ArgumentError(f"parents: expected {n} numbers, each of an earlier feature, or -1")
    return above


def _probabilities(given: Sequence[float] | None, above: np.ndarray, l0: float, zipf: float) -> np.ndarray:
    n = len(above)
    if given is not None:
        p = np.asarray(given, dtype=float)
        if len(p) != n or not ((p >= 0) & (p <= 1)).all():
            raise OutOfRange(f"probabilities: expected {n} numbers from 0 to 1, one for each feature")
        return p
    roots = above < 0
    if not 0 < l0 < roots.sum():
        raise OutOfRange(f"l0 is {l0}: expected more than 0 and less than {roots.sum()}, the features without a parent")
    ranked = np.arange(1, roots.sum() + 1.0) ** -zipf
    low, high = 0.0, 1 / ranked[-1]
    for _ in range(100):  # a share is at most 1: what the first ranks cannot have, the others get
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(1, middle * ranked).sum() < l0 else (low, middle)
    p = np.full(n, 0.5)
    p[roots] = np.minimum(1, high * ranked)
    return p


def _directions(draw: np.random.Generator, n: int, d: int, orthogonal: bool) -> np.ndarray:
    rows = draw.standard_normal((n, d))
    if not orthogonal:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if n > d:
        raise ArgumentError(f"{n} orthogonal directions: there are {d} at most, as many as dimensions")
    return np.linalg.qr(rows.T)[0].T.copy()
