"""Gradient-weighted rollout: attention counted where it moves the prediction up (PRIMER 3.1.15).

    A_l = I + (1 / H) sum_h (d metric / d a^h * R^h)^+,       C = A_L ... A_1

R^h is the relevance of the pattern: the weights a^h themselves (Chefer et al. 2021, for any attention), or what a
relevance propagation makes of them (their first paper). Weights whose gradient is negative or zero add nothing.
"""

from __future__ import annotations

import torch
import xarray as xr
from torch import Tensor

from caseback.errors import CasebackError
from caseback.localize.inputs.mixing.mixing import heads_by_own_positions, labelled_maps, read_positions, tensor_of
from caseback.model.prompts.per_token import token_scores
from caseback.model.registry import technique
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(
    role="context mixing",
    entry=("3.1.15",),
    citation="Chefer et al. 2021",
    cost="one forward + one backward",
    dims=("batch", "layer", "query", "key"),
)
def gradient_attention_maps(
    model: Model, tokens: PromptsLike, metric: Metric, *, relevance: xr.DataArray | None = None
) -> xr.DataArray:
    """Attention times the metric's gradient at it, its positive part, the mean over heads.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    relevance
        R, (batch, layer, head, query, key) as ``attention_maps(..., heads="each")`` is labeled; attention itself
        unless given.

    Returns
    -------
    xr.DataArray
        (batch, layer, query, key), at least 0, the identity not included.

    Raises
    ------
    CasebackError
        For a ``metric`` that is not a ``Metric``, or a relevance of another shape.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> maps = gradient_attention_maps(model, "the cat and the dog", cb.logit_diff(" cat", " dog"))
    >>> bool((maps >= 0).all())
    True
    """
    tokens = model.tokens(tokens)
    read_positions(model, tokens, metric)
    run, values = measured(model.anatomy, tokens, metric, read=["pattern"], grad=True)
    slopes = run.grad(values, ["pattern"], retain=False)
    maps = []
    for layer in range(model.n_layers):
        slope = heads_by_own_positions(slopes["pattern", layer], tokens)
        weight = (
            heads_by_own_positions(run["pattern", layer], tokens)
            if relevance is None
            else _given(relevance, layer, slope)
        )
        maps.append((slope * weight).clamp_min(0).mean(1))
    return labelled_maps(
        torch.stack(maps, 1),
        model,
        tokens,
        range(model.n_layers),
        technique=gradient_attention_maps,
        name="gradient_attention",
        relevance="attention" if relevance is None else "given",
        metric=metric.name,
    )


def _given(relevance: xr.DataArray, layer: int, like: Tensor) -> Tensor:
    dims = ("batch", "layer", "head", "query", "key")
    if not isinstance(relevance, xr.DataArray) or set(relevance.dims) != set(dims):
        raise CasebackError("relevance should be an array (batch, layer, head, query, key)")
    values = torch.from_numpy(relevance.transpose(*dims).values[:, layer].copy()).to(like).nan_to_num(0.0)
    if values.shape != like.shape:
        raise CasebackError(
            f"relevance of layer {layer} is (batch, head, query, key) {tuple(values.shape)}: expected "
            f"{tuple(like.shape)}"
        )
    return values


@technique(
    role="input attribution", entry=("3.1.15",), citation="Chefer et al. 2021", cost="one forward + one backward"
)
def gradient_rollout(
    model: Model, tokens: PromptsLike, metric: Metric, *, relevance: xr.DataArray | None = None
) -> xr.DataArray:
    """Gradient-weighted attention rolled out to the position that the metric reads.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. With a contrastive metric, scores are
        contrastive.
    relevance
        As for ``gradient_attention_maps``.

    Returns
    -------
    xr.DataArray
        (batch, pos), at least 0; the position's own score counts the identity of every layer and is at least 1. Not
        normalized: the papers' product has no rows that sum to 1. NaN where a shorter prompt has no token.

    Raises
    ------
    CasebackError
        For a ``metric`` that is not a ``Metric``, or that reads all positions, or a relevance of another shape.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = gradient_rollout(model, "the cat and the dog", cb.logit_diff(" cat", " dog"))
    >>> float(scores[0, -1]) >= 1
    True
    """
    tokens = model.tokens(tokens)
    at = read_positions(model, tokens, metric)
    maps = tensor_of(gradient_attention_maps(model, tokens, metric, relevance=relevance))
    row = torch.nn.functional.one_hot(at, maps.shape[-1]).to(maps)[:, None]
    # from the last layer down, so that only one row is ever multiplied
    for layer in reversed(range(maps.shape[1])):
        row = row + row @ maps[:, layer]
    return token_scores(row[:, 0], model, tokens, metric, technique=gradient_rollout, name="gradient_rollout")
