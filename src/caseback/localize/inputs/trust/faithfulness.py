"""Does the metric depend on the tokens that an attribution puts first? (PRIMER 3.1.28; DeYoung et al. 2020)

    deletion_k  = f(x without the k units that score highest)      insertion_k = f(x with only these)
    comprehensiveness_k = f(x) - deletion_k   (high is good)       sufficiency_k = f(x) - insertion_k   (low is good)
    AOPC = 1 / (K + 1) sum_{k=0..K} f(x) - f(x_k), at k = 0 nothing being gone (or, for sufficiency, all being there)

"Without" puts a baseline in a token's place (``masked_prompts``), so that positions stay; which baseline is part of
the answer, and prompts with holes are not prompts that the model was trained on. The same numbers for random orders
say what an attribution that knows nothing gets. Highest means most positive: it is the metric, not its size, that
should fall.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.localize.inputs.trust.removal import Measured, as_several, dataset, last_dim, ranks
from caseback.model.prompts.baselines import baseline_name
from caseback.model.prompts.granularity import Given
from caseback.model.prompts.masked_prompts import instead_of, units_of
from caseback.model.prompts.per_token import expect_metric
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

ERASER = (0.01, 0.05, 0.1, 0.2, 0.5)
"""The shares of tokens at which ERASER measures."""

CITATION = "DeYoung et al. 2020, Samek et al. 2017"
_COST = "2 x tokens (or shares) x methods edited runs, those alike run once"


@technique(role="judgement", entry=("3.1.28",), citation="Samek et al. 2017, Petsiuk et al. 2018", cost=_COST)
def removal_curves(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    scores: xr.DataArray | Float[Tensor, "*attribution batch pos"],
    *,
    shares: Sequence[float] | None = None,
    baseline: str | int | Tensor = "mean",
    features: Given = "token",
    special: bool = False,
    progress: bool = False,
) -> xr.Dataset:
    """The metric as tokens are taken out from the highest score down, and as they are put in.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. The same that were attributed.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. Usually the one that was attributed.
    scores
        (batch, pos) or (attribution, batch, pos), as any input attribution or ``attribute`` returns them. Ties keep
        the prompt's order.
    shares
        At which shares of a prompt's units to measure, each rounded up to whole units; by default after every unit.
    baseline
        What a replaced token's embedding becomes: as in ``integrated_gradients``.
    features
        What is replaced together: ``"token"``, ``"word"``, ``"sentence"`` or groups, as for ``features_of``. Scores of
        tokens are added up; scores (..., batch, feature) of these very features are taken as they are.
    special
        Also replace special tokens such as the one that begins a text.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``deletion`` and ``insertion`` (attribution if given, batch, k), NaN past a shorter prompt's last unit; how many
        units are out (or in) in the coordinate ``units``, (batch, k), and which share in ``share``;
        ``deletion_area`` and ``insertion_area``, the areas under the curves over the share, by the trapezoid rule;
        ``value``, (batch,), of the prompt as it is.

    Raises
    ------
    CasebackError
        Where scores do not fit the prompts, or no token may be replaced.
    OutOfRange
        For a share outside 0 to 1.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.inputs import gradient_x_input
    >>> model, metric = cb.load("meadow"), cb.logit_diff(" cat", " dog")
    >>> scores = gradient_x_input(model, "the cat and the dog", metric)
    >>> curves = removal_curves(model, "the cat and the dog", metric, scores)
    >>> bool(curves.deletion[0, 0] == curves.value[0]), bool(curves.insertion[0, 0] == curves.deletion[0, -1])
    (True, True)
    """
    metric, tokens = expect_metric(metric), model.tokens(tokens)
    if shares is not None and (not len(shares) or not all(0 <= share <= 1 for share in shares)):
        raise OutOfRange(f"shares {list(shares)}: expected numbers from 0 to 1, such as 0.05, 0.2, 0.5")
    units = units_of(model, tokens, metric, features, special=special)
    rank, count = ranks(scores, units), units.count
    if shares is None:
        out = torch.arange(int(count.max()) + 1).expand(len(tokens), -1)
    else:
        # a share of 0.2 of 5 units is one, whatever rounding made of the product
        out = (torch.tensor(sorted(shares)).double() * count[:, None] - 1e-9).ceil().clamp_min(0).long()
    there = out <= count[:, None]
    measure = Measured(model, tokens, metric, instead_of(model, tokens, baseline))
    masks = {"deletion": rank[:, :, None] >= out[:, :, None], "insertion": rank[:, :, None] < out[:, :, None]}
    whole = (units.of < 0)[:, None] | ~there[:, :, None]
    asked = {name: measure.ask(keep | whole) for name, keep in masks.items()}
    values, clean = measure.values(progress)
    share = torch.where(there, out.double() / count[:, None], torch.nan)
    variables: dict[str, Any] = {"value": (("batch",), clean.numpy())}
    dims = ("attribution", "batch", "k")
    for name, index in asked.items():
        curve = values[index, torch.arange(len(tokens))[:, None]].masked_fill(~there, torch.nan)
        variables[name] = (dims, curve.numpy())
        variables[f"{name}_area"] = (dims[:2], _area(curve, share.expand_as(curve)).numpy())
    attrs = {
        "baseline": baseline_name(baseline),
        "metric": metric.name,
        "shares": None if shares is None else sorted(shares),
    }
    return dataset(removal_curves, model, scores, variables, out, share, attrs)


@technique(role="judgement", entry=("3.1.28",), citation=CITATION, cost=_COST)
def faithfulness(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    scores: xr.DataArray | Float[Tensor, "*attribution batch pos"],
    *,
    shares: Sequence[float] | None = None,
    baseline: str | int | Tensor = "mean",
    features: Given = "token",
    special: bool = False,
    chance: int = 8,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Comprehensiveness and sufficiency of an attribution, with what random orders get.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. The same that were attributed.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. Usually the one that was attributed.
    scores, baseline, features, special
        As for ``removal_curves``.
    shares
        Shares of a prompt's units; all counts by default. ``faithfulness.ERASER`` are those of its paper, made for
        documents: of a prompt of ten tokens its four smallest are one token each.
    chance
        How many random orders are averaged; 0 for none.
    seed
        Same seed, same result. The random orders are drawn with it.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``comprehensiveness`` and ``sufficiency`` (attribution if given, batch, k), coordinates as in
        ``removal_curves``; their means over k with the 0 for k = 0, ``aopc_comprehensiveness`` (higher is better) and
        ``aopc_sufficiency`` (lower is better), (attribution if given, batch); the same of random orders,
        ``chance_comprehensiveness`` and ``chance_sufficiency``, (batch,), with their standard deviations; ``value``.

    Raises
    ------
    CasebackError, OutOfRange
        As ``removal_curves``; also for fewer than 0 random orders.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.inputs import attribute
    >>> model, metric = cb.load("meadow"), cb.logit_diff(" Mary", " John")
    >>> prompt = "When Mary and John went to the store, John gave a drink to"
    >>> scores = attribute(model, prompt, metric, ["integrated_gradients"])
    >>> curves = faithfulness(model, prompt, metric, scores)
    >>> bool(curves.aopc_comprehensiveness[0, 0] > curves.chance_comprehensiveness[0])
    True
    """
    metric, tokens = expect_metric(metric), model.tokens(tokens)
    if chance < 0:
        raise OutOfRange(f"chance is {chance}: expected a number of random orders, or 0 for none")
    given = as_several(scores)
    both = xr.DataArray(given.numpy(), dims=["attribution", "batch", last_dim(scores)])
    if chance:
        # random scores depend on the place alone, so that no prompt's chance depends on its neighbors
        drawn = np.stack([np.random.default_rng((seed, i)).random(given.shape[-1]) for i in range(chance)])
        drawn = np.broadcast_to(drawn[:, None], (chance, *given.shape[1:]))
        both = xr.DataArray(np.concatenate([given.numpy(), drawn]), dims=both.dims)
    curves = removal_curves(
        model,
        tokens,
        metric,
        both,
        shares=shares,
        baseline=baseline,
        features=features,
        special=special,
        progress=progress,
    )
    whole = {"comprehensiveness": curves.value - curves.deletion, "sufficiency": curves.value - curves.insertion}
    variables: dict[str, Any] = {"value": (("batch",), curves.value.values)}
    for name, loss in whole.items():
        at = torch.from_numpy(loss.transpose("attribution", "batch", "k").values)
        mean = _aopc(at, torch.from_numpy(curves.units.values))
        variables[name] = (("attribution", "batch", "k"), at[: len(given)].numpy())
        variables[f"aopc_{name}"] = (("attribution", "batch"), mean[: len(given)].numpy())
        if chance:
            variables[f"chance_{name}"] = (("batch",), mean[len(given) :].mean(0).numpy())
            variables[f"chance_{name}_sd"] = (("batch",), mean[len(given) :].std(0, correction=0).numpy())
    attrs = {key: curves.attrs.get(key) for key in ("baseline", "metric", "shares")} | {"chance": chance, "seed": seed}
    units, share = torch.from_numpy(curves.units.values), torch.from_numpy(curves.share.values)
    return dataset(faithfulness, model, scores, variables, units, share, attrs)


def _area(
    curve: Float[Tensor, "attribution batch k"], share: Float[Tensor, "attribution batch k"]
) -> Float[Tensor, "attribution batch"]:
    """Under a curve by the trapezoid rule, over the steps that a prompt has, as a share of their width."""
    steps = share.diff(dim=-1)
    areas = (steps * (curve[..., 1:] + curve[..., :-1]) / 2).nansum(-1)
    width = steps.nansum(-1)
    return torch.where(width > 0, areas / width, curve[..., 0])


def _aopc(
    lost: Float[Tensor, "attribution batch k"], out: Int[Tensor, "batch k"]
) -> Float[Tensor, "attribution batch"]:
    """The mean over steps, with the one at which nothing is lost counted once."""
    counts = (out > 0) & ~lost.isnan()
    return torch.where(counts, lost, 0.0).sum(-1) / (counts.sum(-1) + 1)
