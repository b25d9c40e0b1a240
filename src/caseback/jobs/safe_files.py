"""Safetensors and JSON, written whole, each with a digest of what it holds: the files of stores and of fitted things.

    metadata["digests"] = {"": of the other metadata, tensor: of its dtype, shape and bytes, ...}    safetensors
    data["digest"]      = of everything else                                                         JSON

A file without digests, as earlier versions wrote it, is read all the same; one whose digests are not its own is not.
So that a digest cannot get lost unseen, a word beside it says that there is one: ``sealed``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from caseback.errors import LoadError
from caseback.jobs.fingerprint import fingerprint
from caseback.jobs.json_text import parse_json
from caseback.jobs.text_file import read_text
from caseback.jobs.whole_file import whole_file

if TYPE_CHECKING:
    from torch import Tensor

DIGESTS, SEALED = "digests", "sealed"
_REFUSE = "{path} cannot be read: {why}"
_DAMAGED = "it is damaged, its digest is not that of what it holds"


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all.

    Examples
    --------
    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(Path(folder) / "a", {"x": torch.ones(2)}, {"kind": "ones"})
    ...     read_tensors(Path(folder) / "a")
    ({'x': tensor([1., 1.])}, {'kind': 'ones'})
    """
    from safetensors.torch import save_file

    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    texts = {**(metadata or {}), SEALED: "yes"}
    digests = {"": fingerprint(texts)} | {name: fingerprint(tensor) for name, tensor in held.items()}
    with whole_file(path) as draft:
        try:
            save_file(held, draft, {**texts, DIGESTS: json.dumps(digests, sort_keys=True)})
            _sort_metadata(draft)
        except SafetensorError as error:  # a full disk comes as one
            raise OSError(str(error)) from error


def _sort_metadata(path: Path) -> None:
    """Put a file's metadata in order: safetensors writes them in any, and the same content shall be the same bytes."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        assert len(text) == size, "only the order was to change"
        file.seek(8)
        file.write(text)


def read_tensors(
    path: str | Path, names: Sequence[str] | None = None, *, refuse: str = _REFUSE, verify: bool = True
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Some tensors of a safetensors file, or all, and its metadata.

    Parameters
    ----------
    path
        The file.
    names
        Which tensors; all by default.
    refuse
        The text of the refusal, with ``{path}`` and ``{why}`` in it.
    verify
        Compare the digests at once; without it they stay among the metadata, for ``expect_whole_tensors``.

    Raises
    ------
    LoadError
        For a file that is not safetensors, lacks a tensor or is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
    except (OSError, SafetensorError, ValueError) as error:
        raise LoadError(refuse.format(path=path, why=error)) from None
    if verify:
        expect_whole_tensors(tensors, metadata, path, refuse=refuse)
        metadata = {name: text for name, text in metadata.items() if name not in (DIGESTS, SEALED)}
    return tensors, metadata


def expect_whole_tensors(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: str | Path, *, refuse: str = _REFUSE
) -> None:
    """Refuse tensors and metadata that have digests, but not their own.

    Raises
    ------
    LoadError
        For a file that was changed after it was written.
    """
    if DIGESTS not in metadata and SEALED not in metadata:
        return
    texts = {name: text for name, text in metadata.items() if name != DIGESTS}
    try:
        digests = parse_json(metadata[DIGESTS])
        own = {"": fingerprint(texts)} | {name: fingerprint(tensor) for name, tensor in tensors.items()}
        whole = all(digests[name] == digest for name, digest in own.items())
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise LoadError(refuse.format(path=path, why=_DAMAGED))


def write_json(path: str | Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all, with a digest of it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_json(Path(folder) / "a.json", {"rows": [1, 2]})
    ...     data = read_json(Path(folder) / "a.json")
    >>> expect_whole(data, "a.json")
    >>> data["rows"]
    [1, 2]
    """
    own = {key: value for key, value in data.items() if key != "digest"} | {SEALED: True}
    with whole_file(path) as draft:
        text = json.dumps({**own, "digest": _digest(own)}, indent=1, ensure_ascii=False)
        draft.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path, *, refuse: str = _REFUSE) -> dict[str, Any]:
    """A JSON object as it stands in a file; see ``expect_whole`` for whether it is as it was written.

    Parameters
    ----------
    path
        The file.
    refuse
        As for ``read_tensors``.

    Raises
    ------
    LoadError
        For a file that does not hold one.
    """
    try:
        data = parse_json(read_text(path))
    except (LoadError, ValueError) as error:
        raise LoadError(refuse.format(path=path, why=error)) from None
    if not isinstance(data, dict):
        why = f"it holds a {type(data).__name__}, expected a JSON object"
        raise LoadError(refuse.format(path=path, why=why))
    return data


def expect_whole(data: Mapping[str, Any], path: str | Path) -> None:
    """Refuse data that have a digest, but not their own.

    Raises
    ------
    LoadError
        For a file that was changed after it was written.
    """
    own = {key: value for key, value in data.items() if key != "digest"}
    if ("digest" in data or SEALED in data) and data.get("digest") != _digest(own):
        raise LoadError(f"{str(path)!r} cannot be read: {_DAMAGED}")


def _digest(data: Mapping[str, Any]) -> str:
    # through its text: what was a tuple is a list when it is read again
    return fingerprint(json.dumps(data, sort_keys=True))
