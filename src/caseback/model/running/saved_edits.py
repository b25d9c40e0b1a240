"""Edits in files: an artifact that lists each edit with its address, numbers and positions; tensors by themselves.

An edit that holds a run or a function cannot be kept so: a run belongs to its prompts, and a function is code. The
values that such an edit puts can be: as ``Replace`` or ``Mean``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from caseback.artifacts.artifact import Artifact, load, save
from caseback.artifacts.kinds import EDITS
from caseback.errors import EditError
from caseback.model.arguments import checked
from caseback.model.running.affine import Affine, Codebook, Fade, Rotate, SideTerm, Tilt
from caseback.model.running.edits import Add, Edit, Mean, Noise, Project, Replace, Scale, Zero, listed
from caseback.model.running.run import Run

ACTIONS = {
    action.__name__: action
    for action in (Zero, Replace, Add, Scale, Mean, Noise, Project, Affine, Tilt, Fade, Rotate, SideTerm, Codebook)
}
"""The edits that hold by themselves."""


@checked
def save_edits(edits: Edit | Sequence[Edit], path: str | Path, *, provenance: Mapping[str, Any] | None = None) -> None:
    """Write edits to one safetensors file, whole or not at all.

    Parameters
    ----------
    edits
        One edit or several, in the order in which they apply.
    path
        Where.
    provenance
        Of what and how they were made, for whoever reads the file; JSON data.

    Raises
    ------
    EditError
        For an edit with a run or a function.

    Examples
    --------
    >>> import tempfile
    >>> import caseback as cb
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cb.save_edits([cb.Zero("z", layer=1, head=2), cb.Scale("mlp_out", 0.5, layer=0)], f"{folder}/calm")
    ...     [edit.describe() for edit in cb.load_edits(f"{folder}/calm")]
    ['Zero z L1H2', 'Scale mlp_out L0']
    """
    tensors: dict[str, Tensor] = {}
    records = [_record(edit, f"{i}", tensors) for i, edit in enumerate(listed(edits))]
    save(Artifact(tensors, {"edits": json.dumps(records, allow_nan=False)}, dict(provenance or {})), EDITS, path)


@checked
def load_edits(path: str | Path) -> list[Edit]:
    """Read what ``save_edits`` wrote; ``Model.edited`` and ``edits=`` take it.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    LoadError
        For a file that does not hold edits, or a damaged one.
    """

    def build(artifact: Artifact) -> list[Edit]:
        return [_edit(record, artifact.tensors) for record in json.loads(artifact.facts["edits"])]

    return load(path, EDITS, build)


def _record(edit: Edit, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """An edit as JSON data; its tensors are put into ``tensors`` under names of their own."""
    if not isinstance(edit, Edit):
        raise EditError(f"a {type(edit).__name__} is not an edit: expected cb.Zero, cb.Add, cb.Replace ...")
    if ACTIONS.get(type(edit).__name__) is not type(edit) or isinstance(getattr(edit, "over", None), Run):
        raise EditError(
            f"{edit.describe()} holds a run or a function, which a file cannot: give cb.Replace or cb.Mean its values"
        )
    record: dict[str, Any] = {"edit": type(edit).__name__}
    for part in fields(edit):
        value = getattr(edit, part.name)
        if value is not None:
            record[part.name] = _plain(value, f"{name}.{part.name}", tensors)
    return record


def _plain(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A part of an edit as JSON data; an edit holds nothing but numbers, text, slices, lists of indices and tensors."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()  # edits may share one
        return {"tensor": name}
    if isinstance(value, slice):
        return {"slice": [value.start, value.stop, value.step]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    return value.item() if isinstance(value, np.generic) else value


def _edit(record: dict[str, Any], tensors: Mapping[str, Tensor]) -> Edit:
    action = ACTIONS[record["edit"]]
    known = {part.name for part in fields(action)}
    if unknown := set(record) - known - {"edit"}:
        raise ValueError(sorted(unknown)[0])
    return action(**{name: _value(value, tensors) for name, value in record.items() if name != "edit"})


def _value(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    (form, held), *_ = value.items()
    if form == "slice":
        return slice(*held)
    if form == "number":
        return float(held)
    if form != "tensor":
        raise ValueError(form)
    return tensors[held]
