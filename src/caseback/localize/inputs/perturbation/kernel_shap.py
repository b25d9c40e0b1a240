"""Kernel SHAP: Shapley values as a weighted regression on coalitions (PRIMER 3.1.9).

    phi = argmin sum_z pi(z) (v(z) - v(none) - phi . z)^2   subject to   sum phi = v(all) - v(none)
    pi(z) = (n - 1) / (C(n, |z|) |z| (n - |z|))

With all coalitions this is the Shapley value. With fewer, sizes are taken whole from the outside in (single features
and all but one first, which the kernel weighs most) while the samples last; the rest is drawn from the other sizes in
proportion to the kernel, each coalition with its complement. Conventions: the constraint is exact here, as in shap;
captum puts a weight of a million on the two ends, which misses it by about a millionth, and takes no size whole.
"""

from __future__ import annotations

from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.random import Generator, default_rng
from torch import Tensor

from caseback.localize.inputs.perturbation.coalitions import at_least, game_of, spread_over
from caseback.localize.inputs.perturbation.lime import given_masks, present_rows
from caseback.localize.inputs.perturbation.linear_fit import robust_covariance, weighted_fit
from caseback.localize.inputs.perturbation.shapley import completeness, every_coalition
from caseback.model.prompts.granularity import Given
from caseback.model.registry import technique
from caseback.model.running.frames import Positions
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Coalitions (sample, feature), their weights, and which were drawn together (below 0: not drawn, all there are)."""


@technique(
    role="input attribution",
    entry=("3.1.9",),
    citation="Lundberg & Lee 2017",
    cost="samples x one forward, shared prefixes once",
)
def kernel_shap(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    features: Given = "token",
    keep: Positions = (),
    baseline: str | int | Tensor = "mean",
    samples: int | None = None,
    masks: np.ndarray | None = None,
    seed: int = 0,
    token_budget: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.DataArray:
    """Shapley values of the features, by regression on sampled coalitions.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    features, keep, baseline
        The players, what always plays, and what stands in an absent one's place; see ``occlusion``.
    samples
        Coalitions per prompt besides nobody and everybody; 2 n + 2048 unless given, as shap's. With 2**n - 2 or more
        all are taken, and the result is exact.
    masks
        Coalitions to use instead, (sample, feature), True where present: drawn elsewhere in proportion to the kernel,
        so that each counts once.
    seed
        Same seed, same result. The coalitions are drawn with it.
    token_budget
        As for ``Model.sweep``.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.

    Returns
    -------
    xr.DataArray
        (batch, pos), or (batch, feature), signed. Coordinate ``std_error``: how far a score moves with other
        coalitions, one standard deviation, to first order; 0 where all were taken. Attributes, one number per prompt:
        ``metric_value``, ``baseline_value``, ``completeness_gap``, ``samples``.

    Raises
    ------
    OutOfRange
        For no samples.
    CasebackError
        For too few samples to determine all scores, masks that do not fit, or no token to perturb.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = kernel_shap(model, "the cat and the dog", cb.logit_diff(" cat", " dog"))
    >>> exact = cb.localize.inputs.exact_shapley(model, "the cat and the dog", cb.logit_diff(" cat", " dog"))
    >>> bool((abs(scores - exact) < 1e-3).all()), float(scores.std_error.max())
    (True, 0.0)
    """
    if samples is not None:
        at_least("samples", samples)
    game = game_of(
        model,
        tokens,
        metric,
        features=features,
        keep=keep,
        baseline=baseline,
        token_budget=token_budget,
        progress=progress,
        checkpoint=checkpoint,
    )
    drawn = [_drawn(len(mine), samples, default_rng(seed), masks) for mine in game.players]
    ends = [np.concatenate([z, np.zeros((1, z.shape[1]), bool)]) for z, _, _ in drawn]
    values = game.values(present_rows(ends, game.players, game.features.most))
    fits = [_fit(*of, values[: len(of[0]), b], values[len(of[0]), b], game.clean[b]) for b, of in enumerate(drawn)]
    n = game.features.most
    rows = [row for row, _ in fits]
    nobody = [values[len(z), b] for b, (z, _, _) in enumerate(drawn)]
    return game.scores(
        spread_over(rows, game.players, n),
        kernel_shap,
        {"std_error": spread_over([error for _, error in fits], game.players, n)},
        **completeness(game, rows, nobody),
        samples=[len(z) for z, _, _ in drawn],
        seed=seed,
    )


def kernel(n: int, size: np.ndarray) -> np.ndarray:
    """The weight of one coalition of each size."""
    return np.array([(n - 1) / (comb(n, int(k)) * int(k) * (n - int(k))) for k in size])


def _drawn(n: int, samples: int | None, rng: Generator, masks: np.ndarray | None) -> Drawn:
    if masks is not None:
        z = given_masks(masks, n)
        z = z[(z.any(-1)) & (~z.all(-1))]
        return z, np.ones(len(z)), np.arange(len(z))
    samples = 2 * n + 2048 if samples is None else samples
    if 2**n - 2 <= samples:
        z = every_coalition(n)[1:-1]
        return z, kernel(n, z.sum(-1)), np.full(len(z), -1)
    # a size stands for itself and its complement's
    sizes = np.arange(1, n // 2 + 1)
    total = np.array([(n - 1) / (k * (n - k)) * (1 if 2 * k == n else 2) for k in sizes])
    total /= total.sum()
    whole, left, at = [], samples, 0
    for at, k in enumerate(sizes):  # noqa: B007
        count = comb(n, int(k)) * (1 if 2 * k == n else 2)
        if count > left * total[at] / total[at:].sum():
            break
        members = np.zeros((comb(n, int(k)), n), dtype=bool)
        members[np.arange(len(members))[:, None], list(combinations(range(n), int(k)))] = True
        both = members if 2 * k == n else np.concatenate([members, ~members])
        whole.append((both, np.full(len(both), total[at] / len(both))))
        left -= count
    size = rng.choice(sizes[at:], max(left // 2, 1), p=total[at:] / total[at:].sum())
    # argsort twice ranks random numbers: ``size`` features of each row are present
    z = rng.random((len(size), n)).argsort(-1).argsort(-1) < size[:, None]
    z = np.stack([z, ~z], 1).reshape(-1, n)
    weight = np.full(len(z), total[at:].sum() / len(z))
    fixed = sum(len(rows) for rows, _ in whole)
    return (
        np.concatenate([*(rows for rows, _ in whole), z]),
        np.concatenate([*(w for _, w in whole), weight]),
        np.concatenate([np.full(fixed, -1), np.arange(len(z)) // 2]),
    )


def _fit(
    z: np.ndarray, weight: np.ndarray, together: np.ndarray, y: np.ndarray, nobody: float, everybody: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and their errors; the last feature's score is what the constraint leaves."""
    n, change = z.shape[1], everybody - nobody
    if n == 1:
        return np.array([change]), np.zeros(1)
    # the constraint gives the last score, change - the others' sum; put in, it leaves a free regression
    x = z[:, :-1].astype(float) - z[:, -1:]
    rest = y - nobody - z[:, -1] * change
    coefficients, inverse = weighted_fit(x, rest, weight, what="Kernel SHAP")
    covariance = robust_covariance(x, rest - x @ coefficients, weight, inverse, together)
    whole = np.concatenate([np.eye(n - 1), -np.ones((1, n - 1))])
    errors = np.sqrt(np.maximum(np.diag(whole @ covariance @ whole.T), 0))
    return np.append(coefficients, change - coefficients.sum()), errors
