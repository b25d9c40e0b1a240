"""Edits in files: an artifact that lists each edit with its address, numbers and positions; tensors by themselves.

An edit that holds a run or a function cannot be kept so: a run belongs to its prompts, and a function is code. The
values that such an edit puts can be: as ``Replace`` or ``Mean``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from caseback.artifacts.artifact import Artifact, load, save
from caseback.artifacts.kinds import EDITS
from caseback.errors import EditError
from caseback.model.arguments import checked
from caseback.model.remote.records import OWN, Reader, Writer
from caseback.model.running.edits import Edit, listed
from caseback.model.running.run import Run


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
    writer, every = Writer(), listed(edits)
    for edit in every:
        _expect_own(edit)
    records = [writer.edit(edit, f"{i}") for i, edit in enumerate(every)]
    save(Artifact(writer.tensors, {"edits": json.dumps(records, allow_nan=False)}, dict(provenance or {})), EDITS, path)


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
        reader = Reader(artifact.tensors)
        return [reader.edit(record) for record in json.loads(artifact.facts["edits"])]

    return load(path, EDITS, build)


def _expect_own(edit: Any) -> None:
    """Refuse an edit that does not hold by itself."""
    if not isinstance(edit, Edit):
        raise EditError(f"a {type(edit).__name__} is not an edit: expected cb.Zero, cb.Add, cb.Replace ...")
    if OWN.get(type(edit).__name__) is not type(edit) or isinstance(getattr(edit, "over", None), Run):
        raise EditError(
            f"{edit.describe()} holds a run or a function, which a file cannot: give cb.Replace or cb.Mean its values"
        )
