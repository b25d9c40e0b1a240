"""The state of a job in one file, from which the same job goes on, and no other one.

The file is a zip of arrays that ``numpy.load`` reads without pickles, and of ``checkpoint.json``: the format, a digest
of each thing that the job depends on, and plain values. It ends in a digest of all its bytes before, and is written
whole or not at all. So a file that is damaged, cut short or another job's is refused, and the refusal names what
differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caseback.errors import LoadError
from caseback.jobs.fingerprint import fingerprints
from caseback.jobs.forms import expect_form
from caseback.jobs.json_text import parse_json
from caseback.jobs.whole_file import expect_writable, whole_file

FORMAT = "caseback checkpoint 1"
_HEADER = "checkpoint.json"
_SEAL = b"caseback sha256 "
_DIGITS = 64


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds.

    Attributes
    ----------
    tensors
        By name, on the CPU.
    state
        Plain values by name.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Checkpoint:
    """A file that keeps a job's state, or nothing where there is no path.

    Parameters
    ----------
    path
        The file; None keeps nothing.
    depends_on
        By name all that the result follows from: prompts, the model's weights, options. Each is anything that
        ``fingerprint`` takes, and is looked at only where there is a path.
    what
        What the file is called where it is refused: ``"sweep checkpoint"``.
    other
        How a file of another job is called: ``"belongs to another sweep"``.

    Raises
    ------
    LoadError
        For a path that is a folder, or whose folder does not exist.
    WriteError
        For one that cannot be written to: better now than after the work.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "job.npz"
    ...     Checkpoint(path, {"lr": 0.1}).write({"sums": torch.ones(2)}, step=3)
    ...     saved = Checkpoint(path, {"lr": 0.1}).read()
    >>> saved.state, saved.tensors["sums"].tolist()
    ({'step': 3}, [1.0, 1.0])
    """

    def __init__(
        self,
        path: str | Path | None,
        depends_on: Mapping[str, Any],
        *,
        what: str = "checkpoint",
        other: str = "belongs to another job",
    ):
        self.path = None if path is None else Path(path)
        self.what, self.other = what, other
        self.depends_on: dict[str, str] = {}
        if self.path is None:
            return
        if os.path.isdir(self.path):
            raise LoadError(f"{str(path)!r} is a folder, not a {what}: name a file")
        if not os.path.isdir(self.path.parent):
            raise LoadError(
                f"{str(path)!r} lies in a folder that does not exist: make the folder, or name another file"
            )
        expect_writable(self.path, f"the {what}")
        self.depends_on = fingerprints(depends_on)

    def read(self) -> Saved | None:
        """What an earlier call of the same job left; None where there is nothing yet.

        Raises
        ------
        LoadError
            For a file that is damaged, of another version, or another job's.
        """
        if self.path is None or not os.path.exists(self.path):
            return None
        try:
            _check_seal(self.path)
            with zipfile.ZipFile(self.path) as archive:
                header = parse_json(archive.read(_HEADER).decode())
                expect_form(header, {"dtypes": dict, "depends_on": dict, "state": dict}, self.path)
                tensors = {name: _array(archive, name, dtype) for name, dtype in header["dtypes"].items()}
                depends_on, state = dict(header["depends_on"]), header["state"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
            raise LoadError(
                f"{str(self.path)!r} is not a {self.what}: {error}; remove it, or name another file"
            ) from error
        names = dict.fromkeys([*self.depends_on, *depends_on])
        differ = [name for name in names if depends_on.get(name) != self.depends_on.get(name)]
        if differ:
            raise LoadError(
                f"{str(self.path)!r} {self.other}: remove it, or name another file (what differs: {', '.join(differ)})"
            )
        return Saved(_Held(self.path, self.what, tensors), _Held(self.path, self.what, state))

    def write(self, tensors: Mapping[str, Tensor | np.ndarray], **state: Any) -> None:
        """Keep tensors and plain values, in place of what was kept before."""
        if self.path is None:
            return
        held = {name: torch.as_tensor(value).detach().cpu().contiguous() for name, value in tensors.items()}
        header = {
            "format": FORMAT,
            "depends_on": self.depends_on,
            "dtypes": {name: str(value.dtype).removeprefix("torch.") for name, value in held.items()},
            "state": state,
        }
        with whole_file(self.path) as draft:
            with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
                # a ZipInfo without a time: the same state is the same bytes
                archive.writestr(zipfile.ZipInfo(_HEADER), json.dumps(header, sort_keys=True))
                for name, value in held.items():
                    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                        np.lib.format.write_array(file, _plain(value).numpy(), allow_pickle=False)
                archive.comment = _SEAL + b"0" * _DIGITS
            _seal(draft)


class _Held(dict[str, Any]):
    """What a checkpoint holds; what is asked for and is not there was written by something else."""

    def __init__(self, path: Path, what: str, held: Mapping[str, Any]):
        super().__init__(held)
        self.path, self.what = path, what

    def __missing__(self, name: str) -> Any:
        raise LoadError(f"{str(self.path)!r} is not a {self.what}: it lacks {name!r}; remove it, or name another file")


_OF_NUMPY = {torch.from_numpy(np.zeros(0, kind)).dtype for kind in "? b h i l q B e f d F D".split()}
"""The types that numpy has too; bfloat16 and the like are written as bytes."""


def _plain(value: Tensor) -> Tensor:
    return value if value.dtype in _OF_NUMPY else value.unsqueeze(-1).view(torch.uint8)


def _array(archive: zipfile.ZipFile, name: str, dtype: str) -> Tensor:
    with archive.open(f"{name}.npy") as file:
        array = torch.from_numpy(np.lib.format.read_array(file, allow_pickle=False))
    kind = getattr(torch, dtype)
    return array if kind in _OF_NUMPY else array.view(kind).squeeze(-1)


def _digest_of(path: Path) -> bytes:
    """Of all bytes but the digest at the end."""
    digest, left = hashlib.sha256(), path.stat().st_size - _DIGITS
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest().encode()


def _seal(path: Path) -> None:
    digest = _digest_of(path)
    with path.open("r+b") as file:
        file.seek(-_DIGITS, 2)
        file.write(digest)


def _check_seal(path: Path) -> None:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _DIGITS - len(_SEAL)))
        seal, digest = file.read(len(_SEAL)), file.read()
    if seal != _SEAL:
        raise ValueError("it is cut short, or was not written by this version of caseback")
    if digest != _digest_of(path):
        raise ValueError("it is damaged, its digest is not that of its bytes")
