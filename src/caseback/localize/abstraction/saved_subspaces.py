"""Subspaces that a search found, in files: an artifact with the basis (k, width), the rows of a DAS rotation.

The variable of each row and the dimensions are among its facts; accuracies, on examples held out and beside random
rows, are its checks; everything else that the search says of itself is how it was made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from caseback.artifacts.artifact import Artifact, load, save
from caseback.artifacts.kinds import SUBSPACE
from caseback.errors import CasebackError


def save_subspace(found: xr.DataArray, path: str | Path) -> None:
    """Write what ``das`` or ``boundless_das`` gave to one safetensors file, whole or not at all.

    Parameters
    ----------
    found
        (k, width) with the coordinate ``variable``.
    path
        Where.

    Raises
    ------
    CasebackError
        For anything else.

    Examples
    --------
    >>> import tempfile
    >>> found = xr.DataArray([[1.0, 0.0]], {"variable": ("k", ["a"])}, ("k", "d_model"), "basis", {"accuracy": 1.0})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_subspace(found, Path(folder) / "a.safetensors")
    ...     load_subspace(Path(folder) / "a.safetensors").identical(found)
    True
    """
    if not isinstance(found, xr.DataArray) or found.dims[:1] != ("k",) or list(found.coords) != ["variable"]:
        raise CasebackError(
            f"a {type(found).__name__} is no subspace: expected what das or boundless_das gave, (k, width) with the "
            "variable of each row"
        )
    told: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for name, value in found.attrs.items():
        told[str(name).endswith(("accuracy", "accuracy_where_changed"))][str(name)] = value
    facts = {"width": str(found.dims[1]), "variables": json.dumps(found["variable"].values.tolist())}
    save(Artifact({"basis": torch.from_numpy(found.values)}, facts, *told), SUBSPACE, path)


def load_subspace(path: str | Path) -> xr.DataArray:
    """Read what ``save_subspace`` wrote; ``At.holding`` takes it.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    LoadError
        For a file that holds no subspace, or a damaged one.
    """

    def build(found: Artifact) -> xr.DataArray:
        variables, width = json.loads(found.facts["variables"]), found.facts["width"]
        found.expect({"basis": f"k {width}"}, k=len(variables))
        return xr.DataArray(
            found.tensors["basis"].numpy(),
            {"variable": ("k", variables)},
            ("k", width),
            "basis",
            {**found.made, **found.checks},
        )

    return load(path, SUBSPACE, build)
