"""Fitted things in safe files: tensors, what they were made of and by, and how well they did; one save and one load.

A file is safetensors. Its metadata hold ``format`` (the kind and its version), ``made`` (of what and how, as JSON),
``checks`` (what was measured of it, as JSON), ``caseback_version``, digests of all of these and of every tensor, and
the facts of its kind that the tensors do not tell. What is read is checked against its format, and against a model
where one is given. Files that earlier versions wrote without checks and digests are read as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from caseback.artifacts.hub import local_file
from caseback.artifacts.kinds import Kind, refusal
from caseback.errors import LoadError
from caseback.jobs.safe_files import (
    DIGESTS,
    SEALED,
    expect_whole,
    expect_whole_tensors,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from caseback.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
_OF_ALL = ("format", "made", "checks", "caseback_version", DIGESTS, SEALED)


@dataclass(frozen=True, eq=False)
class Artifact:
    """What a file of a fitted thing holds.

    Attributes
    ----------
    tensors
        By name.
    facts
        What the tensors do not tell, as text.
    provenance
        Of what and how it was made (``made`` in the file): corpus, steps, losses; JSON data.
    checks
        What was measured of it, such as its accuracy on examples held out; JSON data.
    path
        Where it was read from, for refusals.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def expect(self, layout: Mapping[str, str], **sizes: int) -> None:
        """Refuse tensors that are not those of a layout.

        Parameters
        ----------
        layout
            For each tensor the names of its dimensions; a name has one size.
        **sizes
            Those that are known.

        Raises
        ------
        LoadError
            Where a tensor is missing, unknown or of another shape.
        """
        for name, dims in layout.items():
            if name not in self.tensors:
                raise LoadError(f"{self.path} lacks the tensor {name!r} ({dims.replace(' ', ', ')})")
            shape, names = tuple(self.tensors[name].shape), dims.split()
            if len(shape) != len(names) or any(sizes.setdefault(d, n) != n for d, n in zip(names, shape, strict=True)):
                expected = ", ".join(f"{d} {sizes[d]}" if d in sizes else d for d in names)
                raise LoadError(f"{self.path}: the tensor {name!r} has the shape {shape}, expected ({expected})")
        unknown = sorted(set(self.tensors) - set(layout))
        if unknown:
            raise LoadError(f"{self.path} holds tensors that are not of its format: {', '.join(unknown)}")


def save(artifact: Artifact, kind: Kind, path: str | Path) -> None:
    """Write a fitted thing to one safetensors file, whole or not at all.

    Examples
    --------
    >>> import tempfile, torch
    >>> from caseback.artifacts.kinds import MAPPING
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(Artifact({"bias": torch.ones(2)}, checks={"explained": 0.5}), MAPPING, Path(folder) / "a")
    ...     load(Path(folder) / "a", MAPPING, lambda artifact: artifact.checks)
    {'explained': 0.5}
    """
    metadata = {"format": kind.format, **artifact.facts, "made": json.dumps(dict(artifact.provenance))}
    if artifact.checks:
        metadata["checks"] = json.dumps(dict(artifact.checks))
    write_tensors(path, artifact.tensors, {**metadata, "caseback_version": __version__})


def load(path: str | Path, kind: Kind, build: Callable[[Artifact], T], expect: Callable[[T], None] | None = None) -> T:
    """Read a fitted thing.

    Parameters
    ----------
    path
        The file, or its address on the hub (``hf://owner/name/path``).
    kind
        What it is to hold.
    build
        Makes the thing of what was read; what it does not find or cannot parse is refused as missing or wrong.
    expect
        Refuses a thing that was made for another model.

    Raises
    ------
    LoadError
        For a file that cannot be read, holds another kind or version, lacks what its kind says, or is damaged.
    """
    path, refuse = local_file(path), f"{{path}} cannot be read as {kind.with_article}: {{why}}"
    tensors, metadata = read_tensors(path, refuse=refuse, verify=False)
    if metadata.get("format") != kind.format:
        raise LoadError(refusal(path, metadata.get("format", ""), kind))
    facts = {name: text for name, text in metadata.items() if name not in _OF_ALL}
    try:
        provenance, checks = json.loads(metadata["made"]), json.loads(metadata.get("checks", "{}"))
        thing = build(Artifact(tensors, facts, provenance, checks, Path(path)))
    except (KeyError, TypeError, ValueError) as error:
        why = f"does not say what {kind.with_article} says: {error!r} is missing or wrong"
        raise LoadError(f"{path} {why}") from None
    if expect is not None:
        expect(thing)
    # last, so that a file that people changed is refused by what is wrong with it
    expect_whole_tensors(tensors, metadata, path, refuse=refuse)
    return thing


def save_json(data: Mapping[str, Any], kind: Kind, path: str | Path) -> None:
    """Write a fitted thing that has no tensors as JSON, whole or not at all."""
    write_json(path, {"format": kind.format, **data})


def load_json(path: str | Path, kind: Kind) -> dict[str, Any]:
    """Read what ``save_json`` wrote.

    Raises
    ------
    LoadError
        For a file that cannot be read, holds another kind or version, or is damaged.
    """
    path = local_file(path)
    data = read_json(path, refuse=f"{{path}} cannot be read as {kind.with_article}: {{why}}")
    if data.get("format") != kind.format:
        raise LoadError(refusal(path, str(data.get("format", "")), kind))
    expect_whole(data, path)
    return data
