"""The form that an attribution graph has, whoever hands it over: a file, a netCDF store, another's hands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from caseback.errors import ResultError

_WEIGHTS = ("weight", "target_weight")
_COORDS = {"writer", "kind", "layer", "pos_of", "index", "reader", "reader_kind", "reader_index", "token"}


def expect_graph(graph: xr.Dataset) -> xr.Dataset:
    """An attribution graph, its weights by (reader, writer).

    Raises
    ------
    ResultError
        For what is none.
    """
    lacking = {*_WEIGHTS, "value", "activation"} - set(graph.data_vars)
    lacking |= _COORDS - set(graph.coords)
    if lacking:
        raise ResultError(f"this is no attribution graph: it has no {', '.join(sorted(lacking))}")
    missing = [name for name in _WEIGHTS if not np.isfinite(graph[name].values).all()]
    if missing:
        raise ResultError(f"this graph has NaN or infinity in {missing[0]!r}: expected numbers")
    return graph.transpose("reader", "writer", ...)


def attrs_of(graph: xr.Dataset) -> dict[str, Any]:
    """What a graph says of itself, in Python's own numbers: those of a file are NumPy's."""
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in graph.attrs.items()}


def along_all_paths(start: Tensor, step: Callable[[Tensor], Tensor], longest: int) -> Tensor:
    """Start + step(start) + step(step(start)) + ..., which ends where units do not read each other in a circle.

    Raises
    ------
    ResultError
        Where something still passes after so many steps as the longest path can have.
    """
    total, passing = torch.zeros_like(start), start
    for _ in range(longest + 1):
        if not bool(passing.any()):
            return total
        total, passing = total + passing, step(passing)
    raise ResultError("this is no attribution graph: its units read each other in a circle")
