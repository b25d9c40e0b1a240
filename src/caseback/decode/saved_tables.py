"""A table by site as what an artifact says of itself: attributes are its provenance, columns its checks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from caseback.artifacts.artifact import Artifact


def table_parts(table: xr.Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
    """A table's provenance and checks, as JSON data.

    Raises
    ------
    TypeError
        For attributes that JSON cannot hold.
    """
    provenance = {str(name): value for name, value in table.attrs.items()}
    columns = {str(name): table[name].values.tolist() for name in table.data_vars}
    checks = {"dims": {str(name): list(table[name].dims) for name in table.data_vars}, "table": columns}
    json.dumps([provenance, checks])
    return provenance, checks


def table_of(artifact: Artifact, sites: list[str]) -> xr.Dataset:
    """The table that ``table_parts`` took apart.

    Raises
    ------
    KeyError, ValueError
        For parts that are missing or no numbers: ``artifacts.load`` says so in words.
    """
    dims, columns = artifact.checks["dims"], artifact.checks["table"]
    arrays = {name: (dims[name], np.asarray(columns[name])) for name in columns}
    if odd := [name for name, (_, values) in arrays.items() if values.dtype.kind not in "biuf"]:
        raise ValueError(odd[0])
    return xr.Dataset(arrays, {"site": sites}, dict(artifact.provenance))
