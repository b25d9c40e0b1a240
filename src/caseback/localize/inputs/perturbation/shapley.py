"""Shapley values: what each feature adds, on average over the orders in which features can come (PRIMER 3.1.9).

    phi_i = sum_{S without i} |S|! (n - |S| - 1)! / n!  [v(S + i) - v(S)]
          = mean over orders of [v(those before i, and i) - v(those before i)]

v(S) is the metric with the features in S present (``coalitions``). They add up to v(all) - v(none), treat alike
features alike and give 0 to one that never matters. None of this makes them true of a single counterfactual question:
complete and linear attributions can do no better there than guessing (Bilodeau et al. 2024).

``exact_shapley`` asks for all 2^n coalitions; ``shapley_sampling`` follows random orders, each of which adds up.
Consecutive coalitions of an order agree up to the token that comes, so an order of n tokens costs about n / 2 prompts.
"""

from __future__ import annotations

from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.random import Generator, default_rng
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.localize.inputs.perturbation.coalitions import Game, at_least, game_of, spread_over
from caseback.localize.inputs.perturbation.lime import present_rows
from caseback.model.prompts.granularity import LEVELS, Given, features_of
from caseback.model.registry import technique
from caseback.model.running.frames import Positions
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(
    role="input attribution",
    entry=("3.1.9",),
    citation="Shapley 1953, Lundberg & Lee 2017",
    cost="2^n forwards, shared prefixes once",
)
def exact_shapley(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    features: Given = "token",
    keep: Positions = (),
    baseline: str | int | Tensor = "mean",
    max_calls: int = 2**14,
    token_budget: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.DataArray:
    """Shapley values of the features, from all coalitions.

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
    max_calls
        Most coalitions per prompt, 2**14 for 14 features.
    token_budget
        As for ``Model.sweep``.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.

    Returns
    -------
    xr.DataArray
        (batch, pos), or (batch, feature), signed. Attributes, one number per prompt: ``metric_value`` (all present),
        ``baseline_value`` (none) and ``completeness_gap`` (the scores' sum less the difference of the two).

    Raises
    ------
    CasebackError
        For more features than ``max_calls`` allows, with the number of calls and what to use instead; or no token to
        perturb.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = exact_shapley(model, "the cat and the dog", cb.logit_diff(" cat", " dog"))
    >>> abs(scores.attrs["completeness_gap"][0]) < 1e-4
    True
    """
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
    most = max(len(mine) for mine in game.players)
    if 2**most > max_calls:
        raise CasebackError(
            f"exact Shapley values of {most} features take 2**{most} = {2**most:,} calls, more than "
            f"max_calls={max_calls:,}: use shapley_sampling, kernel_shap or partition_shap, coarser features "
            "('word', 'sentence', groups), keep=, or a larger max_calls"
        )
    drawn = [every_coalition(len(mine)) for mine in game.players]
    values = game.values(present_rows(drawn, game.players, game.features.most))
    rows = [shapley_of(values[: len(z), b]) for b, z in enumerate(drawn)]
    return game.scores(
        spread_over(rows, game.players, game.features.most),
        exact_shapley,
        **completeness(game, rows, values[0]),
        calls=2**most,
    )


def every_coalition(n: int) -> np.ndarray:
    """All coalitions of n features (2**n, n): in coalition c feature i is present where bit i of c is set."""
    return (np.arange(2**n)[:, None] >> np.arange(n)) & 1 == 1


def shapley_of(values: np.ndarray) -> np.ndarray:
    """Shapley values of a game given as the values (2**n,) of all its coalitions, in ``every_coalition``'s order.

    Examples
    --------
    >>> shapley_of(np.array([0.0, 1.0, 2.0, 5.0]))  # 1 and 2 alone, 2 more together
    array([2., 3.])
    """
    n = int(np.log2(len(values)))
    size = every_coalition(n).sum(-1)
    weight = np.array([1 / (n * comb(n - 1, s)) for s in range(n)])
    without = [np.flatnonzero(np.arange(2**n) >> i & 1 == 0) for i in range(n)]
    return np.array([(weight[size[s]] * (values[s + 2**i] - values[s])).sum() for i, s in enumerate(without)])


def completeness(game: Game, rows: list[np.ndarray], nobody: np.ndarray | list) -> dict[str, Any]:
    """The value with no feature present, and by how much scores miss the change from there."""
    low = np.asarray(nobody)
    total = np.array([row.sum() for row in rows])
    return {"baseline_value": low.tolist(), "completeness_gap": (total - (game.clean - low)).tolist()}


@technique(
    role="input attribution",
    entry=("3.1.9",),
    citation="Castro et al. 2009, Strumbelj & Kononenko 2010, Owen 1977",
    cost="orders x n / 2 forwards",
)
def shapley_sampling(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    features: Given = "token",
    keep: Positions = (),
    baseline: str | int | Tensor = "mean",
    permutations: int = 25,
    antithetic: bool = False,
    nested: tuple[str, ...] = (),
    orders: np.ndarray | None = None,
    seed: int = 0,
    token_budget: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.DataArray:
    """Shapley values of the features, from random orders in which they come.

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
    permutations
        Orders per prompt; 25 as in captum.
    antithetic
        Follow each order backwards too (shap's permutation explainer), which counts as one more: effects of pairs
        cancel out of the error.
    nested
        Levels, coarsest first, such as ``("sentence", "word")``: orders keep each sentence, and in it each word,
        together. The mean over such orders is the Owen value of nested groups, which words and sentences add up to.
    orders
        Orders to follow instead of drawing them: (order, feature), each a permutation of the features that can matter.
    seed
        Same seed, same result. The orders are drawn with it.
    token_budget
        As for ``Model.sweep``.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.

    Returns
    -------
    xr.DataArray
        (batch, pos), or (batch, feature), signed. Coordinate ``std_error``: one standard error of the mean over
        orders, or over pairs of them if antithetic; NaN for a single one. Attributes, one number per prompt:
        ``metric_value``, ``baseline_value``, ``completeness_gap``.

    Raises
    ------
    OutOfRange
        For no permutations.
    CasebackError
        For an unknown level, orders that are not permutations, or no token to perturb.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = shapley_sampling(model, "the cat and the dog", cb.logit_diff(" cat", " dog"), permutations=4)
    >>> scores.std_error.dims, abs(scores.attrs["completeness_gap"][0]) < 1e-4
    (('batch', 'pos'), True)
    """
    at_least("permutations", permutations)
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
    coarser = _groups_of(game, nested)
    followed = [
        _orders(len(mine), [c[mine] for c in coarser[b]], permutations, antithetic, default_rng(seed), orders)
        for b, mine in enumerate(game.players)
    ]
    drawn = [_along(order) for order in followed]
    values = game.values(present_rows(drawn, game.players, game.features.most))
    rows, errors = [], []
    for b, order in enumerate(followed):
        m, n = order.shape
        steps = np.diff(values[: len(drawn[b]), b].reshape(m, n + 1), axis=1)
        each = np.zeros((m, n))
        # step i of an order is what its i-th feature added
        np.put_along_axis(each, order, steps, 1)
        units = each.reshape(-1, 2, n).mean(1) if antithetic and orders is None else each
        rows.append(each.mean(0))
        errors.append(units.std(0, ddof=1) / len(units) ** 0.5 if len(units) > 1 else np.full(n, np.nan))
    n = game.features.most
    return game.scores(
        spread_over(rows, game.players, n),
        shapley_sampling,
        {"std_error": spread_over(errors, game.players, n)},
        **completeness(game, rows, values[0]),
        permutations=len(followed[0]),
        antithetic=antithetic,
        nested=list(nested),
        seed=seed,
    )


def _along(order: np.ndarray) -> np.ndarray:
    """The coalitions along orders: (order * (n + 1), n), from nobody to everybody."""
    m, n = order.shape
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.broadcast_to(np.arange(n), (m, n)), 1)
    return (place[:, None] < np.arange(n + 1)[:, None]).reshape(-1, n)


def _groups_of(game: Game, nested: tuple[str, ...]) -> list[list[np.ndarray]]:
    """For each prompt and level, which coarser feature each feature's first token is in."""
    out: list[list[np.ndarray]] = [[] for _ in game.players]
    for level in nested:
        if level not in LEVELS:
            raise CasebackError(f"nested has a level {level!r}. {did_you_mean(level, LEVELS)}")
        coarse = features_of(game.model, game.tokens, level)
        for b, row in enumerate(game.features.groups):
            of = {p: i for i, group in enumerate(coarse.groups[b]) for p in group}
            out[b].append(np.array([of[group[0]] for group in row]))
    return out


def _orders(
    n: int, coarser: list[np.ndarray], m: int, antithetic: bool, rng: Generator, given: np.ndarray | None
) -> np.ndarray:
    if given is not None:
        order = np.asarray(given)
        if order.ndim != 2 or not len(order) or not (np.sort(order, -1) == np.arange(n)).all():
            raise CasebackError(
                f"orders of shape {order.shape}: expected permutations of 0 to {n - 1}, the features that can matter"
            )
        return order
    # one random number per feature, and one per coarser group; sorted by the coarsest first, groups stay together
    keys = [rng.random((m, n))]
    for of in reversed(coarser):
        keys.append(rng.random((m, int(of.max()) + 1))[:, of])
    order = np.lexsort(keys, axis=-1)
    return np.stack([order, order[:, ::-1]], 1).reshape(-1, n) if antithetic else order
