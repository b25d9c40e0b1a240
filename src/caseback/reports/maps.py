"""A result as a map: rows, columns, one number per cell, with the spread where prompts were averaged.

Every view of an intervention, in the terminal or on a page, is drawn from this, so that all show the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError
from caseback.model.arguments import checked
from caseback.model.graph.names import head_name
from caseback.reports.tokens_text import visible

__all__ = ["ablation_map", "as_map", "trace_maps"]

_ALONG = ("pos", "query", "key")


@dataclass(frozen=True)
class Axis:
    """A side of a map: what it is, and one label per entry."""

    name: str
    labels: list[str]


@dataclass(frozen=True)
class Map:
    """Numbers by row and column; NaN where there is no number.

    Attributes
    ----------
    spread
        The standard deviation over prompts; None for a single prompt.
    n
        How many prompts the numbers are means of.
    """

    rows: Axis
    columns: Axis
    values: np.ndarray
    spread: np.ndarray | None
    n: int

    @property
    def largest(self) -> float:
        """The largest absolute value, or 1 if all are 0: shades are relative to it."""
        finite = np.abs(self.values[np.isfinite(self.values)])
        return float(finite.max()) if finite.size and finite.max() > 0 else 1.0

    def turned(self) -> Map:
        """The same map with rows and columns exchanged."""
        spread = None if self.spread is None else self.spread.T
        return Map(self.columns, self.rows, self.values.T, spread, self.n)


def of_layers(axis: Axis) -> bool:
    """Whether an axis runs over layers, alone or with what they are made of: it is drawn upwards, layer 0 lowest.

    Examples
    --------
    >>> of_layers(Axis("layer", ["0"])), of_layers(Axis("layer · head", ["L0H0"])), of_layers(Axis("pos", ["0"]))
    (True, True, False)
    """
    return axis.name.partition(" · ")[0] == "layer"


@checked
def as_map(result: xr.DataArray) -> Map:
    """A result of one to three dimensions besides ``batch`` as a map.

    Parameters
    ----------
    result
        Its last dimension becomes the columns and those before it the rows (two of them joined, ``L3H2`` or
        ``3 · 2``); a single dimension becomes the rows. Over ``batch`` it is averaged.

    Returns
    -------
    Map
        With positions labeled by their tokens, where the result has them and all prompts agree.

    Raises
    ------
    CasebackError
        For a result with more dimensions, or without any.

    Examples
    --------
    >>> drawn = as_map(xr.DataArray([[[1.0, 3.0]]], dims=["layer", "pos", "batch"], coords={"layer": [4]}))
    >>> drawn.rows.labels, drawn.values.tolist(), drawn.spread.tolist()
    (['4'], [[2.0]], [[1.0]])
    """
    dims = [str(dim) for dim in result.dims if dim != "batch"]
    if not 1 <= len(dims) <= 3:
        raise CasebackError(f"a map is of 1 to 3 dimensions besides batch, not of {dims}: select some of them first")
    values = result.transpose(*dims, *(["batch"] if "batch" in result.dims else [])).values
    many = "batch" in result.dims and values.shape[-1] > 1
    there = np.isfinite(values)
    mean, spread = values, None
    if "batch" in result.dims:
        count = there.sum(-1)
        total = np.where(there, values, 0.0).sum(-1)
        mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        if many:
            off = np.where(there, values - mean[..., None], 0.0)
            spread = np.where(count > 0, np.sqrt((off**2).sum(-1) / np.maximum(count, 1)), np.nan)
    axes = [Axis(dim, _labels(result, dim)) for dim in dims]
    rows, columns = _sides(axes)
    shape = (len(rows.labels), len(columns.labels))
    return Map(
        rows,
        columns,
        mean.reshape(shape),
        None if spread is None else spread.reshape(shape),
        result.sizes.get("batch", 1),
    )


@checked
def ablation_map(effects: xr.DataArray) -> Map:
    """Effects of ablated components as layers by heads, the MLP the last column; a list where neurons are among them.

    Examples
    --------
    >>> coords = {"kind": ("component", ["head", "mlp"]), "layer": ("component", [2, 2])}
    >>> coords |= {"head": ("component", [1, -1]), "component": ["L2H1", "MLP 2"]}
    >>> drawn = ablation_map(xr.DataArray([[0.5], [2.0]], dims=["component", "batch"], coords=coords))
    >>> drawn.rows.labels, drawn.columns.labels, drawn.values.tolist()
    (['2'], ['H1', 'MLP'], [[0.5, 2.0]])
    """
    listed = as_map(effects)
    kinds = set(effects["kind"].values.tolist())
    if "neuron" in kinds:
        return listed
    of_each = list(zip(effects["layer"].values.tolist(), effects["head"].values.tolist(), strict=True))
    layers = sorted({layer for layer, _ in of_each})
    heads = sorted({head for _, head in of_each} - {-1})
    labels = [f"H{head}" for head in heads] + (["MLP"] if "mlp" in kinds else [])
    shape = (len(layers), len(labels))
    values = np.full(shape, np.nan)
    spread = None if listed.spread is None else np.full(shape, np.nan)
    for i, (layer, head) in enumerate(of_each):
        at = layers.index(layer), len(labels) - 1 if head < 0 else heads.index(head)
        values[at] = listed.values[i, 0]
        if spread is not None and listed.spread is not None:
            spread[at] = listed.spread[i, 0]
    return Map(Axis("layer", [str(i) for i in layers]), Axis("component", labels), values, spread, listed.n)


_RESTORED = {"resid_post": "stream after one layer", "mlp_out": "MLP", "attn_out": "attention"}


@checked
def trace_maps(result: xr.Dataset) -> dict[str, Map]:
    """The maps of a causal trace, by what was restored: the stream, and MLPs and attention in a window of layers.

    Examples
    --------
    >>> indirect = xr.DataArray([[[0.1]]], dims=["component", "layer", "pos"], coords={"component": ["mlp_out"]})
    >>> list(trace_maps(xr.Dataset({"indirect": indirect}, attrs={"window": 4})))
    ['MLP in 4 layers around']
    """
    window = result.attrs["window"]
    around = " in one layer" if window == 1 else f" in {window} layers around"
    return {
        _RESTORED[name] + ("" if name == "resid_post" else around): as_map(result.indirect.sel(component=name))
        for name in result.component.values.tolist()
    }


def _sides(axes: list[Axis]) -> tuple[Axis, Axis]:
    if len(axes) == 1:
        return axes[0], Axis("", [""])
    if len(axes) == 2:
        return axes[0], axes[1]
    first, second = axes[:2]
    heads = (first.name, second.name) == ("layer", "head")
    labels = [head_name(int(a), int(b)) if heads else f"{a} · {b}" for a in first.labels for b in second.labels]
    return Axis(f"{first.name} · {second.name}", labels), axes[2]


def _labels(result: xr.DataArray, dim: str) -> list[str]:
    labels = [str(label) for label in result[dim].values.tolist()]
    if dim not in _ALONG:
        return labels
    texts = [_tokens(result, name, dim) for name in ("token", "clean_token", "corrupt_token")]
    alone, clean, corrupt = texts
    shown = alone or clean
    if shown is None:
        return labels
    captions = []
    for i, label in enumerate(labels):
        text = visible(shown[i])
        other = None if alone or corrupt is None else visible(corrupt[i])
        captions.append(f"{label} {text}" if other in (None, text) else f"{label} {text} | {other}")
    return captions


def _tokens(result: xr.DataArray, name: str, dim: str) -> list[str] | None:
    """The tokens along a dimension, if the result has them and they are the same in all prompts."""
    if name in result.coords and result.coords[name].dims == (dim,):
        return [str(t) for t in result.coords[name].values]
    if name not in result.coords or set(result.coords[name].dims) != {"batch", dim}:
        return None
    texts: Any = result.coords[name].transpose("batch", dim).values
    return [str(t) for t in texts[0]] if (texts == texts[0]).all() else None
