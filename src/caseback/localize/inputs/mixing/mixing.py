"""Who is mixed into whom: maps of context mixing, one per layer, and how a row of them is read (PRIMER 3.1.12-3.1.21).

    C[l][i, j]   the share that position j, as it enters layer l, has in what position i is behind it

Maps are (batch, layer, query, key) by each prompt's own positions, NaN where a shorter prompt has none, 0 at later
keys. A technique is a way to fill them in; what a prediction owes to the input is then the row of the position that it
is made from: of one layer, of the mean of all, or of their product, ``rollout``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.prompts.per_token import aligned, expect_metric, token_scores
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens

Maps = Float[Tensor, "batch layer query key"]
Across = str | int
"""How a row is taken from the maps of all layers: "rollout", "mean", or a layer's number."""


def chosen_layers(model: Model, layers: Sequence[int] | None) -> list[int]:
    """Layer numbers, negative ones counted from the end; all where none is given.

    Raises
    ------
    UnknownSite
        For a layer that the model does not have.
    """
    return [model.anatomy.layer(i) for i in (range(model.n_layers) if layers is None else layers)]


def by_own_positions(
    values: Float[Tensor, "batch query key *rest"], tokens: Tokens
) -> Float[Tensor, "batch query key *rest"]:
    """Both axes of a padded map moved so that each prompt begins at 0; zeros past its end.

    Examples
    --------
    >>> ids, mask = torch.tensor([[0, 7, 8]]), torch.tensor([[False, True, True]])
    >>> by_own_positions(torch.arange(9.0).view(1, 3, 3), Tokens(ids, mask, [["a", "b"]]))
    tensor([[[4., 5., 0.],
             [7., 8., 0.],
             [0., 0., 0.]]])
    """
    queries = aligned(at_least_float32(values.detach()), tokens)
    return aligned(queries.transpose(1, 2), tokens).transpose(1, 2)


def heads_by_own_positions(
    values: Float[Tensor, "batch head query key"], tokens: Tokens
) -> Float[Tensor, "batch head query key"]:
    """The same of a padded map per head."""
    return by_own_positions(values.movedim(1, -1), tokens).movedim(-1, 1)


def row_shares(
    maps: Float[Tensor, "batch *layer query key"], tokens: Tokens
) -> tuple[Float[Tensor, "batch *layer query key"], int]:
    """Each row divided by its sum, and how many rows of real tokens had nothing to divide.

    A row of zeros says that no source has a part in its position, which is then given to the position itself.

    Examples
    --------
    >>> tokens = Tokens(torch.ones(1, 2).long(), torch.ones(1, 2).bool(), [["a", "b"]])
    >>> row_shares(torch.tensor([[[0.0, 0.0], [1.0, 3.0]]]), tokens)
    (tensor([[[1.0000, 0.0000],
             [0.2500, 0.7500]]]), 1)
    """
    total = maps.sum(-1, keepdim=True)
    empty = total <= 0
    shares = torch.where(empty, torch.eye(maps.shape[-1]).to(maps), maps / torch.where(empty, 1.0, total))
    real = torch.arange(maps.shape[-2], device=maps.device) < tokens.lengths.to(maps.device)[:, None]
    real = real.view(len(maps), *[1] * (maps.ndim - 3), -1)
    return shares, int((empty[..., 0] & real).sum())


def labelled_maps(
    maps: Float[Tensor, "batch layer *head query key"],
    model: Model,
    tokens: Tokens,
    layers: Sequence[int],
    *,
    technique: Callable[..., Any],
    name: str,
    **attrs: Any,
) -> xr.DataArray:
    """Label maps that are by own positions: layers by number, queries and keys by their token."""
    outside = torch.arange(maps.shape[-1], device=maps.device) >= tokens.lengths.to(maps.device)[:, None]
    outside = (outside[:, :, None] | outside[:, None]).view(len(maps), *[1] * (maps.ndim - 3), *maps.shape[-2:])
    width = maps.shape[-1]
    texts = [row + [""] * (width - len(row)) for row in tokens.text]
    return labelled(
        maps.masked_fill(outside, torch.nan),
        ["batch", "layer", *(["head"] if maps.ndim == 5 else []), "query", "key"],
        {
            "layer": list(layers),
            "query_token": (("batch", "query"), texts),
            "key_token": (("batch", "key"), texts),
        },
        name=name,
        technique=technique,
        model=model,
        **attrs,
    )


def tensor_of(maps: xr.DataArray) -> Maps:
    """Labelled maps as a tensor, 0 outside of prompts.

    Raises
    ------
    CasebackError
        For an array that does not hold one map per layer.
    """
    if not isinstance(maps, xr.DataArray) or set(maps.dims) != {"batch", "layer", "query", "key"}:
        what = maps.dims if isinstance(maps, xr.DataArray) else type(maps).__name__
        raise CasebackError(
            f"maps are {what}: expected an array (batch, layer, query, key), such as alti_maps(model, tokens); "
            "take the mean over heads first"
        )
    values = torch.from_numpy(maps.transpose("batch", "layer", "query", "key").values.copy())
    if values.shape[-1] != values.shape[-2]:
        raise CasebackError(f"maps of {values.shape[-2]} queries and {values.shape[-1]} keys: expected as many of both")
    # a prompt is as long as its map's diagonal has numbers; inside of that nothing may be missing
    missing = values.isnan()
    real = ~missing[:, 0].diagonal(dim1=-2, dim2=-1)
    ends = real.sum(-1, keepdim=True)
    inside = torch.arange(real.shape[-1]) < ends
    if bool((missing & (inside[:, None, :, None] & inside[:, None, None])).any()) or not bool(real.eq(inside).all()):
        raise CasebackError("the maps have NaN inside a prompt: expected it only past the end of a shorter one")
    return values.nan_to_num(0.0)


def stack_of(maps: xr.DataArray) -> Maps:
    """The same for maps that follow one another: one per layer from 0 on, each of what entered that layer.

    Raises
    ------
    CasebackError
        Also for maps that begin later or leave layers out, or go back to the prompt's tokens already.
    """
    values = tensor_of(maps)
    layers = maps.layer.values.tolist() if "layer" in maps.coords else list(range(values.shape[1]))
    if layers != list(range(len(layers))):
        raise CasebackError(f"a path through the layers needs those from 0 on, {layers} given: leave layers out")
    if maps.attrs.get("cumulative"):
        raise CasebackError(
            f"maps of {maps.attrs.get('technique')} go back to the prompt's tokens already: a path through them would "
            "count each layer several times over"
        )
    if bool((values < 0).any()):
        raise CasebackError("the maps have negative entries, which are not shares: take norms or weights")
    return values


def rolled(maps: Maps, residual: float) -> Maps:
    """Products R_l = A_l ... A_1 for every l, with A = (1 - residual) C + residual I, its rows brought to sum to 1.

    Examples
    --------
    >>> rolled(torch.eye(3).expand(1, 2, 3, 3), residual=0.5)[0, -1].tolist() == torch.eye(3).tolist()
    True
    """
    eye = torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    mixed = (1 - residual) * maps + residual * eye
    total = mixed.sum(-1, keepdim=True)
    mixed = torch.where(total > 0, mixed / torch.where(total > 0, total, 1.0), eye)
    products = [mixed[:, 0]]
    for layer in range(1, maps.shape[1]):
        products.append(mixed[:, layer] @ products[-1])
    return torch.stack(products, 1)


def read_positions(model: Model, tokens: Tokens, metric: Metric) -> Int[Tensor, " batch"]:
    """The position of each prompt that a metric reads, by its own tokens.

    Raises
    ------
    CasebackError
        For a metric that reads all positions: a map has a row for each, and none is its.
    """
    bound = expect_metric(metric).on(tokens, model.anatomy)
    if bound.columns is None:
        raise CasebackError(
            f"the metric {metric.name!r} reads every position, and a map of context mixing is read at one row: "
            "give a metric with a position, such as cb.logit(target, pos=-1)"
        )
    return (bound.columns - tokens.first.to(bound.columns.device)).cpu()


def row_scores(
    maps: xr.DataArray,
    model: Model,
    tokens: Tokens,
    metric: Metric,
    across: Across,
    *,
    technique: Callable[..., Any],
    name: str,
    residual: float = 0.0,
    **attrs: Any,
) -> xr.DataArray:
    """The row of the position that the metric reads, as scores of tokens.

    Parameters
    ----------
    across
        ``"rollout"``, with ``residual`` of the identity in each layer; ``"mean"`` over the layers; or a layer.
    """
    at = read_positions(model, tokens, metric)
    values = tensor_of(maps)
    if across == "rollout":
        combined = rolled(stack_of(maps), residual)[:, -1]
        attrs = {"residual": residual, **attrs}
    elif across == "mean":
        combined = values.mean(1)
    elif isinstance(across, int):
        layer = model.anatomy.layer(across)
        combined = values[:, maps.layer.values.tolist().index(layer)]
    else:
        raise CasebackError(
            f"across={across!r} is unknown: give a layer's number or a word. "
            f"{did_you_mean(str(across), ['rollout', 'mean'])}"
        )
    scores = combined[torch.arange(len(combined)), at]
    map_attrs = {
        key: maps.attrs[key] for key in ("empty_rows", "normalised", "gap", "of", "norm", "p") if key in maps.attrs
    }
    return token_scores(
        scores, model, tokens, metric, technique=technique, name=name, across=across, **{**map_attrs, **attrs}
    )
