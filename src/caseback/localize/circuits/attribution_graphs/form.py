"""The form that an attribution graph has, whoever hands it over: a file, a netCDF store, another's hands."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import ResultError

CIRCLE = "this is no attribution graph: its units read each other in a circle"
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
