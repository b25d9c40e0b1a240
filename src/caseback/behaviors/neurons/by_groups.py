"""How much of a neuron's variance groups of tokens explain, from the sums of the table ``neuron_groups``.

one mark      q (1 - q) (m1 - m0)^2 / Var = 1 - [q Var1 + (1 - q) Var0] / Var,    q the share of tokens that have it
several bins  eta^2 = sum_g n_g (m_g - m)^2 / (n Var),    without what chance gives:  1 - (1 - eta^2) (n - 1) / (n - g)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.errors import CasebackError

FEWEST = 20
"""A group has so many tokens at least, and so have the others together."""


@dataclass(frozen=True)
class Groups:
    """Groups of tokens of one fold.

    Attributes
    ----------
    n
        Tokens of each group, and ``total`` of all.
    mean
        (group, unit), and ``overall`` (unit).
    fires
        (group, unit), the share above 0.
    variance
        (unit), of all tokens.
    """

    n: Float[np.ndarray, " group"]
    total: float
    mean: Float[np.ndarray, "group unit"]
    fires: Float[np.ndarray, "group unit"]
    overall: Float[np.ndarray, " unit"]
    variance: Float[np.ndarray, " unit"]


def groups_of(evidence: Evidence, names: Sequence[str], among: str = "any") -> list[Groups]:
    """Some groups by their names, one ``Groups`` a fold; those with too few tokens have 0.

    Parameters
    ----------
    evidence
        What was measured.
    names
        The groups.
    among
        The group that they are parts of; all tokens by default.

    Raises
    ------
    CasebackError
        For text without tokens past the first of each row.
    """
    folds = []
    for table in evidence.folds(TEXT, "neuron_groups"):
        own = table.transpose("layer", "neuron", "group")
        total = float(own["n"].sel(group=among))
        if total < 2 * FEWEST:
            where = "stand past the first of their rows" if among == "any" else f"are of the group {among!r}"
            raise CasebackError(f"{total:.0f} tokens {where}: expected {2 * FEWEST} at least")
        some, every = own.sel(group=list(names)), own.sel(group=among)

        def by_group(of: np.ndarray) -> np.ndarray:
            return np.moveaxis(of, -1, 0).reshape(len(names), -1)

        folds.append(
            Groups(
                some["n"].values.astype(float),
                total,
                by_group(np.nan_to_num(some["mean"].values)),
                by_group(np.nan_to_num(some["fires"].values)),
                every["mean"].values.reshape(-1),
                every["variance"].values.reshape(-1),
            )
        )
    return folds


def explained_by_mark(groups: Groups) -> Float[np.ndarray, " unit"]:
    """The share of the variance that having a mark explains; of the first group. 0 where too few have it or lack it.

    Examples
    --------
    >>> half = np.array([0.5, 0.5])
    >>> one = Groups(np.array([50.0]), 100.0, np.array([[1.0, 0.5]]), np.zeros((1, 2)), half, half**2)
    >>> explained_by_mark(one).tolist()
    [1.0, 0.0]
    """
    return explained_by_each(groups)[0]


def explained_by_each(groups: Groups) -> Float[np.ndarray, "group unit"]:
    """The same of every group by itself."""
    n, rest = groups.n[:, None], groups.total - groups.n[:, None]
    # m1 - m = (1 - q) (m1 - m0)
    between = (groups.mean - groups.overall) ** 2 * n / np.maximum(rest, 1)
    enough = np.minimum(n, rest) >= FEWEST
    return np.where(enough, _share(between, np.broadcast_to(groups.variance, between.shape)), 0.0)


def in_deviations(groups: Groups) -> Float[np.ndarray, " unit"]:
    """How many deviations the mean with a mark is above the mean without it."""
    rest = max(groups.total - groups.n[0], 1)
    gap = (groups.mean[0] - groups.overall) * groups.total / rest
    return np.divide(gap, np.sqrt(groups.variance), out=np.zeros_like(gap), where=groups.variance > 0)


def explained_by_bins(groups: Groups) -> Float[np.ndarray, " unit"]:
    """The share of the variance that bins explain together, less what bins without any relation would.

    Raises
    ------
    CasebackError
        For fewer than two bins with enough tokens.
    """
    enough = _enough(groups)
    n, within = groups.n[enough], groups.n[enough].sum()
    mean = (n @ groups.mean[enough]) / within
    between = (n @ (groups.mean[enough] - mean) ** 2) / within
    unexplained = 1 - _share(between, groups.variance)
    return np.clip(1 - unexplained * (within - 1) / (within - len(n)), 0, 1)


def information(groups: Groups) -> Float[np.ndarray, " unit"]:
    """I(fires; bin) in nats, less the bias (bins - 1) / 2 n (Miller and Madow)."""
    enough = _enough(groups)
    n, fires = groups.n[enough], groups.fires[enough]
    share = n / n.sum()
    gain = _entropy(share @ fires) - share @ _entropy(fires)
    return np.maximum(gain - (len(n) - 1) / (2 * n.sum()), 0)


def _enough(groups: Groups) -> np.ndarray:
    enough = groups.n >= FEWEST
    if enough.sum() < 2:
        raise CasebackError(f"fewer than two bins have {FEWEST} tokens: choose longer rows or more text")
    return enough


def _entropy(p: np.ndarray) -> np.ndarray:
    own, other = (np.where(q > 0, q * np.log(np.where(q > 0, q, 1)), 0) for q in (p, 1 - p))
    return -(own + other)


def _share(between: np.ndarray, variance: np.ndarray) -> np.ndarray:
    # a neuron that does not vary beyond rounding has nothing to explain
    return np.clip(np.divide(between, variance, out=np.zeros_like(between), where=variance > 1e-16), 0, 1)
