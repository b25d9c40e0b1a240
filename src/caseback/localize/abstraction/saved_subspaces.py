"""Subspaces that a search found, in files: an artifact with the basis (k, width), the rows of a DAS rotation.

The variable of each row and the dimensions are among its facts; accuracies, on examples held out and beside random
rows, are its checks; everything else that the search says of itself is how it was made.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import xarray as xr

from caseback.artifacts.artifact import Artifact, load, save
from caseback.artifacts.kinds import SUBSPACE
from caseback.errors import CasebackError
from caseback.model.arguments import checked

_CHECKS = ("accuracy", "accuracy_where_changed")
"""How attributes end that say how well a subspace does."""


@checked
def save_subspace(subspace: xr.DataArray, path: str | Path) -> None:
    """Write what ``das`` or ``boundless_das`` gave to one safetensors file, whole or not at all.

    Parameters
    ----------
    subspace
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
    >>> subspace = xr.DataArray([[1.0, 0.0]], {"variable": ("k", ["a"])}, ("k", "d_model"), "basis", {"accuracy": 1.0})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_subspace(subspace, Path(folder) / "a.safetensors")
    ...     load_subspace(Path(folder) / "a.safetensors").identical(subspace)
    True
    """
    if not isinstance(subspace, xr.DataArray) or subspace.dims[:1] != ("k",) or list(subspace.coords) != ["variable"]:
        raise CasebackError(
            f"a {type(subspace).__name__} is not a subspace: expected what das or boundless_das gave, (k, width) with "
            "the variable of each row"
        )
    attrs = {str(name): value for name, value in subspace.attrs.items()}
    checks = {name: value for name, value in attrs.items() if name.endswith(_CHECKS)}
    provenance = {name: value for name, value in attrs.items() if name not in checks}
    facts = {"width": str(subspace.dims[1]), "variables": json.dumps(subspace["variable"].values.tolist())}
    save(Artifact({"basis": torch.from_numpy(subspace.values)}, facts, provenance, checks), SUBSPACE, path)


@checked
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

    def build(artifact: Artifact) -> xr.DataArray:
        variables, width = json.loads(artifact.facts["variables"]), artifact.facts["width"]
        artifact.expect({"basis": f"k {width}"}, k=len(variables))
        return xr.DataArray(
            artifact.tensors["basis"].numpy(),
            {"variable": ("k", variables)},
            ("k", width),
            "basis",
            {**artifact.provenance, **artifact.checks},
        )

    return load(path, SUBSPACE, build)
