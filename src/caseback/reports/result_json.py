"""A result as plain JSON data: dimensions, coordinates, variables and how they were made. Missing values are null."""

from __future__ import annotations

import math
from typing import Any

import xarray as xr

from caseback.model.arguments import checked

__all__ = ["result_json"]


@checked
def result_json(result: xr.DataArray | xr.Dataset) -> dict[str, Any]:
    """A whole result in xarray's own form, with NaN as null.

    Examples
    --------
    >>> variables = result_json(xr.DataArray([1.0, float("nan")], dims=["layer"], name="effect"))["data_vars"]
    >>> variables["effect"]["data"], variables["effect"]["dims"]
    ([1.0, None], ['layer'])
    """
    whole = result.to_dataset(name=str(result.name or "value")) if isinstance(result, xr.DataArray) else result
    plain = whole.to_dict(data="list")
    plain["attrs"] = {**result.attrs, **plain["attrs"]}
    for variable in plain["data_vars"].values():
        variable["attrs"] = {}  # they repeat those of the result
    return _plain(plain)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.item() if hasattr(value, "item") else value
