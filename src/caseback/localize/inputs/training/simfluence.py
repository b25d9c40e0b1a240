"""Simfluence: what each example does to a query's loss, learned from the logs of training runs (PRIMER 3.1.27).

    L_t = alpha(c_t) L_{t-1} + beta(c_t),    alpha(c) = sum_{i in c} A_i,    beta(c) = sum_{i in c} B_i

c_t is the batch of step t and L_t the query's loss after it. A and B are fitted by ridge regression, a query at a time;
a run of other batches is then predicted from its first loss alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from numpy.typing import ArrayLike

from caseback.errors import CasebackError, OutOfRange
from caseback.model.arguments import checked
from caseback.model.registry import technique
from caseback.model.results import labelled

KINDS = ("both", "multiplicative", "additive")


@technique(
    role="training-data attribution",
    entry=("3.1.27",),
    citation="Guu et al. 2023",
    cost="the queries' losses after every logged step",
)
def simfluence(
    batches: Sequence[Sequence[int]] | Sequence[Sequence[Sequence[int]]],
    losses: ArrayLike | Sequence[ArrayLike],
    n_examples: int,
    *,
    ridge: float = 1e-6,
    kind: str = "both",
) -> xr.Dataset:
    """Learn from logs how each training example changes queries' losses, step by step.

    Parameters
    ----------
    batches
        The numbers of the examples in each step; of one run, or a list of runs.
    losses
        (step + 1, query), before the first step and after each; of one run, or a list of runs.
    n_examples
        How many examples there are.
    ridge
        Weight of the factors' squares in the fit, which draws alpha toward 1 and beta toward 0.
    kind
        ``"both"``; ``"multiplicative"`` fits alpha alone, ``"additive"`` beta alone (alpha is 1).

    Returns
    -------
    xr.Dataset
        (query, example): ``multiplicative`` A and ``additive`` B. The first is written as the example's share of a
        batch's change, A_i - 1 / |c|, so that 0 says that it leaves the loss as it is.

    Raises
    ------
    CasebackError
        For logs whose lengths do not fit, batches of several sizes, or an unknown kind.
    OutOfRange
        For an example's number that is out of range, or a ridge that is not above 0.

    Examples
    --------
    >>> losses = np.array([[1.0], [0.5], [0.25], [0.225]])  # example 0 halves the loss, example 1 takes a tenth
    >>> effects = simfluence([[0], [0], [1]], losses, 2, kind="multiplicative")
    >>> effects.multiplicative.values.round(3).tolist()
    [[-0.5, -0.1]]
    """
    if kind not in KINDS:
        raise CasebackError(f"kind {kind!r} is unknown: expected one of {', '.join(KINDS)}")
    if n_examples < 1:
        raise OutOfRange(f"n_examples={n_examples}: expected at least 1")
    if not ridge > 0:
        raise OutOfRange(f"ridge is {ridge}: expected a number above 0")
    runs = _runs(batches, losses)
    size = _batch_size([steps for steps, _ in runs])
    member = np.concatenate([_members(steps, n_examples) for steps, _ in runs])
    before = np.concatenate([curve[:-1] for _, curve in runs])
    change = np.concatenate([np.diff(curve, axis=0) for _, curve in runs])
    n_query = before.shape[1]
    factors = np.zeros((2, n_query, n_examples))
    # L_t - L_{t-1} is linear in A and B, with L_{t-1} times membership and membership itself as columns
    for q in range(n_query):
        columns = {"multiplicative": member * before[:, q : q + 1], "additive": member}
        used = [name for name in columns if kind in ("both", name)]
        x = np.concatenate([columns[name] for name in used], axis=1)
        fitted = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ change[:, q])
        for name, part in zip(used, fitted.reshape(len(used), n_examples), strict=True):
            factors[list(columns).index(name), q] = part
    return xr.Dataset(
        {
            name: labelled(
                values, ["query", "example"], name=name, technique=simfluence, ridge=ridge, kind=kind, batch_size=size
            )
            for name, values in zip(("multiplicative", "additive"), factors, strict=True)
        }
    )


@checked
def simulated(
    factors: xr.Dataset, batches: Sequence[Sequence[int]], start: Float[np.ndarray, " query"]
) -> Float[np.ndarray, "step query"]:
    """Predict the losses of a run: (step + 1, query), from the first ones and the batches.

    Parameters
    ----------
    factors
        As ``simfluence`` gives them.
    batches
        The run's.
    start
        (query,) the losses before its first step.

    Examples
    --------
    >>> losses = np.array([[1.0], [0.5], [0.25], [0.225]])
    >>> effects = simfluence([[0], [0], [1]], losses, 2, kind="multiplicative")
    >>> simulated(effects, [[1], [0]], np.array([2.0])).round(3).tolist()
    [[2.0], [1.8], [0.9]]
    """
    a, b = factors.multiplicative.values, factors.additive.values
    if np.shape(start) != a.shape[:1]:
        raise CasebackError(f"start of shape {np.shape(start)}: expected a loss for each of {len(a)} queries")
    losses = [np.asarray(start, dtype=float)]
    for member in _members(batches, a.shape[1]):
        losses.append(losses[-1] * (1 + a @ member) + b @ member)
    return np.array(losses)


def _runs(batches: Any, losses: Any) -> list[tuple[Any, np.ndarray]]:
    """Logs as a list of runs."""
    one = len(batches) > 0 and len(batches[0]) > 0 and np.ndim(batches[0][0]) == 0
    pairs = [(batches, losses)] if one else list(zip(batches, losses, strict=False))
    if not pairs or (not one and len(batches) != len(losses)):
        raise CasebackError(f"batches of {len(batches)} runs and losses of {len(losses)}: expected as many, 1 at least")
    runs = []
    for steps, curve in pairs:
        try:
            curve = np.asarray(curve, dtype=float)
        except (TypeError, ValueError):
            raise CasebackError(f"losses are {type(curve).__name__}: expected numbers (step + 1, query)") from None
        if curve.ndim != 2 or len(curve) != len(steps) + 1:
            raise CasebackError(
                f"losses of shape {curve.shape} for {len(steps)} steps: expected (step + 1, query), the first before "
                "any step"
            )
        runs.append((steps, curve))
    return runs


def _batch_size(runs: Sequence[Any]) -> int:
    sizes = {len(batch) for steps in runs for batch in steps}
    if len(sizes) != 1:
        raise CasebackError(f"batches of {sorted(sizes)} examples: expected one size")
    return sizes.pop()


def _members(steps: Sequence[Sequence[int]], n_examples: int) -> Float[np.ndarray, "step example"]:
    """How often each example is in each step's batch."""
    counts = np.zeros((len(steps), n_examples))
    for row, batch in zip(counts, steps, strict=True):
        for number in batch:
            if not 0 <= number < n_examples:
                raise OutOfRange(f"example {number} is out of range: there are {n_examples}")
            row[number] += 1
    return counts
