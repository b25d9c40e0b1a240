"""Attention rollout: what a position holds of each token when mixing goes on layer after layer (PRIMER 3.1.14).

    A_l = (1 - r) C_l + r I,      R_l = A_l ... A_1

r is the share of the residual stream. Raw attention leaves it out, so there r = 1/2; ALTI, GlobEnc, Value Zeroing and
norms taken with the residual contain it, so there r = 0. Rows sum to 1: where a map's do not (a sink keeps part of
them), A is brought to that first.
"""

from __future__ import annotations

import xarray as xr

from caseback.errors import OutOfRange
from caseback.localize.inputs.mixing.mixing import rolled, row_scores, stack_of
from caseback.localize.inputs.mixing.raw_attention import attention_maps
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

_OF_THE_TECHNIQUE = ("technique", "entry", "citation", "caseback_version", "transformers_version", "torch_version")


def residual_share(maps: xr.DataArray, residual: float | None) -> float:
    """The share of the identity that maps still need: as given, else 0 for those that hold it and 1/2 for others.

    Raises
    ------
    OutOfRange
        For a share outside of 0 to 1.
    """
    if residual is None:
        return 0.0 if maps.attrs.get("holds_residual") else 0.5
    if not 0 <= residual <= 1:
        raise OutOfRange(f"residual is {residual}: expected a share from 0 to 1")
    return float(residual)


@technique(
    role="context mixing",
    entry=("3.1.14",),
    citation="Abnar and Zuidema 2020",
    cost="a product of (pos, pos) matrices per layer",
)
def rollout(maps: xr.DataArray, *, residual: float | None = None, each_layer: bool = False) -> xr.DataArray:
    """Multiply the maps of all layers into one: what each position holds of each token at the end.

    Parameters
    ----------
    maps
        Maps of layers 0 on, (batch, layer, query, key), from any of the ``..._maps`` functions, rows at least 0.
    residual
        Share r of the identity in each layer. By default 1/2, the paper's, for maps without the residual stream and 0
        for those that have it (their attribute ``holds_residual``).
    each_layer
        Also the products after each layer, instead of the last alone.

    Returns
    -------
    xr.DataArray
        (batch, [layer,] query, key); rows sum to 1.

    Raises
    ------
    CasebackError
        For an array that does not hold one map per layer, layers that do not go from 0 on, a negative map, or one that
        goes back to the prompt's tokens already (``decompx_maps``).
    OutOfRange
        For a share outside of 0 to 1.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> whole = rollout(attention_maps(model, "the cat and the dog"))
    >>> whole.dims, bool(abs(whole.sum("key") - 1).max() < 1e-5), whole.attrs["residual"]
    (('batch', 'query', 'key'), True, 0.5)
    """
    values, share = stack_of(maps), residual_share(maps, residual)
    outside = maps.isnull().transpose("batch", "layer", "query", "key").values
    products = rolled(values, share).numpy()
    products[outside] = float("nan")
    coords = {name: maps.coords[name] for name in ("query_token", "key_token") if name in maps.coords}
    if each_layer:
        coords["layer"] = list(range(values.shape[1]))
    attrs = {key: value for key, value in maps.attrs.items() if key not in (*_OF_THE_TECHNIQUE, "model")}
    attrs |= {"maps": maps.attrs.get("technique"), "residual": share}
    result = labelled(
        products if each_layer else products[:, -1],
        ["batch", *(["layer"] if each_layer else []), "query", "key"],
        coords,
        name="rollout",
        technique=rollout,
        **attrs,
    )
    return result.assign_attrs({"model": maps.attrs["model"]} if "model" in maps.attrs else {})


@technique(role="input attribution", entry=("3.1.14",), citation="Abnar and Zuidema 2020", cost="one forward")
def attention_rollout(model: Model, tokens: PromptsLike, metric: Metric, *, residual: float = 0.5) -> xr.DataArray:
    """What the position that the metric reads holds of each token, by rollout of raw attention.

    In a decoder a rollout leans toward the first tokens, which every later position can mix in again and again.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. Only its position counts: attention knows
        no target.
    residual
        Share of the residual stream in each layer; 1/2 as in the paper.

    Returns
    -------
    xr.DataArray
        (batch, pos); each prompt's scores sum to 1; NaN where a shorter prompt has no token.

    Raises
    ------
    CasebackError
        For a ``metric`` that is not a ``Metric``, or that reads all positions.
    OutOfRange
        For a share outside of 0 to 1.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = attention_rollout(model, "the cat and the dog", cb.logit(" cat"))
    >>> round(float(scores.sum()), 4)
    1.0
    """
    tokens = model.tokens(tokens)
    maps = attention_maps(model, tokens)
    share = residual_share(maps, residual)
    return row_scores(
        maps, model, tokens, metric, "rollout", technique=attention_rollout, name="attention_rollout", residual=share
    )
