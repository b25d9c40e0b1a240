"""Mappings between streams in files: an artifact with weight (d_model, d_model_to) and bias (d_model_to)."""

from __future__ import annotations

from pathlib import Path

from caseback.artifacts.artifact import Artifact, load, save
from caseback.artifacts.kinds import MAPPING
from caseback.decode.vocabulary.patchscopes.mappings import AffineMap
from caseback.model.arguments import checked


@checked
def save_mapping(mapping: AffineMap, path: str | Path) -> None:
    """Write what ``fit_mapping`` gave to one safetensors file, whole or not at all.

    Parameters
    ----------
    mapping
        The map.
    path
        Where.

    Examples
    --------
    >>> import tempfile, torch
    >>> mapping = AffineMap(torch.eye(2), torch.zeros(2), explained=1.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_mapping(mapping, Path(folder) / "a.safetensors")
    ...     load_mapping(Path(folder) / "a.safetensors").explained
    1.0
    """
    checks = {"explained": mapping.explained}
    save(
        Artifact({"weight": mapping.weight, "bias": mapping.bias}, provenance=mapping.provenance, checks=checks),
        MAPPING,
        path,
    )


@checked
def load_mapping(path: str | Path) -> AffineMap:
    """Read what ``save_mapping`` wrote.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    LoadError
        For a file that holds no mapping, or a damaged one.
    """

    def build(artifact: Artifact) -> AffineMap:
        artifact.expect({"weight": "d_model d_model_to", "bias": "d_model_to"})
        explained = float(artifact.checks["explained"])
        return AffineMap(artifact.tensors["weight"], artifact.tensors["bias"], explained, dict(artifact.provenance))

    return load(path, MAPPING, build)
