"""Attention weights as they are, the mean over heads (PRIMER 3.1.12).

    A[i, j] = (1 / H) sum_h a_ij^h

Weights say where a head looks, not what it takes from there: a token whose value is short can be looked at in vain.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xarray as xr

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.localize.inputs.mixing.mixing import (
    Across,
    chosen_layers,
    heads_by_own_positions,
    labelled_maps,
    row_scores,
)
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.tokens import PromptsLike

Heads = str | int | Sequence[int]


@technique(
    role="context mixing",
    entry=("3.1.12",),
    citation="Jain and Wallace 2019, Bastings and Filippova 2020",
    cost="one forward",
)
def attention_maps(
    model: Model, tokens: PromptsLike, *, heads: Heads = "mean", layers: Sequence[int] | None = None
) -> xr.DataArray:
    """Attention patterns of each layer, the mean over heads or head by head.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    heads
        ``"mean"`` over all, ``"each"`` by itself, or the mean over one or some by number.
    layers
        All unless given; negative ones count from the end.

    Returns
    -------
    xr.DataArray
        (batch, layer, [head,] query, key). Rows sum to 1, or with a learned sink (gpt-oss) to what it leaves them;
        0 at later keys and outside of a sliding window.

    Raises
    ------
    UnknownSite
        For a layer that the model lacks, or a model whose pattern cannot be seen.
    OutOfRange
        For a head that a layer lacks.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> maps = attention_maps(model, "the cat and the dog")
    >>> maps.dims, bool(abs(maps.sum("key") - 1).max() < 1e-5)
    (('batch', 'layer', 'query', 'key'), True)
    """
    chosen, tokens = chosen_layers(model, layers), model.tokens(tokens)
    if isinstance(heads, str) and heads not in ("mean", "each"):
        raise CasebackError(f"heads={heads!r} is unknown: give numbers or a word. {did_you_mean(heads, _WORDS)}")
    run = execute(model.anatomy, tokens, read=[("pattern", i) for i in chosen], logits=False)
    maps = []
    for layer in chosen:
        pattern = heads_by_own_positions(run["pattern", layer], tokens)
        if not isinstance(heads, str):
            pattern = pattern[:, _numbers(heads, pattern.shape[1], layer)]
        maps.append(pattern if heads == "each" else pattern.mean(1))
    if len({m.shape for m in maps}) > 1:
        raise CasebackError(f"layers differ in heads ({[m.shape[1] for m in maps]}): give heads='mean', or one layer")
    return labelled_maps(
        torch.stack(maps, 1), model, tokens, chosen, technique=attention_maps, name="attention", heads=str(heads)
    )


_WORDS = ("mean", "each")


def _numbers(heads: int | Sequence[int], n_heads: int, layer: int) -> list[int]:
    wanted = [heads] if isinstance(heads, int) else list(heads)
    for head in wanted:
        if not -n_heads <= head < n_heads:
            raise OutOfRange(f"head {head} is out of range: layer {layer} has heads 0 to {n_heads - 1}")
    if not wanted:
        raise OutOfRange("no head given: expected a head's number, some of them, 'mean' or 'each'")
    return wanted


@technique(
    role="input attribution",
    entry=("3.1.12",),
    citation="Jain and Wallace 2019, Bastings and Filippova 2020",
    cost="one forward",
)
def raw_attention(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    across: Across = "mean",
    heads: int | Sequence[int] | None = None,
) -> xr.DataArray:
    """How much the position that the metric reads attends to each token, the mean over heads and layers.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. Only its position counts: attention knows
        no target.
    across
        ``"mean"`` over the layers, or one by number; ``"rollout"`` gives the rollout without residual.
    heads
        All unless given.

    Returns
    -------
    xr.DataArray
        (batch, pos), at least 0; NaN where a shorter prompt has no token.

    Raises
    ------
    CasebackError
        For a ``metric`` that is not a ``Metric``, or that reads all positions.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = raw_attention(model, "the cat and the dog", cb.logit(" cat"))
    >>> round(float(scores.sum()), 4)
    1.0
    """
    tokens = model.tokens(tokens)
    maps = attention_maps(model, tokens, heads="mean" if heads is None else heads)
    return row_scores(maps, model, tokens, metric, across, technique=raw_attention, name="raw_attention")
