"""A result as plain JSON data: dimensions, coordinates, variables and how they were made. What is not there is null."""

from __future__ import annotations

import math
from typing import Any

import xarray as xr


def result_json(result: xr.DataArray | xr.Dataset) -> dict[str, Any]:
    """The whole of a result, as xarray spells it, with NaN as null.

    Examples
    --------
    >>> made = result_json(xr.DataArray([1.0, float("nan")], dims=["layer"], name="effect"))
    >>> made["data_vars"]["effect"]["data"], made["data_vars"]["effect"]["dims"]
    ([1.0, None], ['layer'])
    """
    whole = result.to_dataset(name=str(result.name or "value")) if isinstance(result, xr.DataArray) else result
    told = whole.to_dict(data="list")
    told["attrs"] = {**result.attrs, **told["attrs"]}
    for variable in told["data_vars"].values():
        variable["attrs"] = {}  # those of the result
    return _plain(told)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.item() if hasattr(value, "item") else value
