"""The files of a published dictionary: a folder or one file in it, on disk or on the Hugging Face hub.

A hub repository may hold terabytes: its files are listed, and each is fetched when it is read. A name that comes out
of a file (a config that names weights) is never followed out of the folder or the repository.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caseback.artifacts.hub import HubAddress, why
from caseback.decode.dictionaries.formats.weights import widened
from caseback.errors import LoadError
from caseback.jobs.json_text import shortened
from caseback.jobs.pickles import read_pickle
from caseback.jobs.safe_files import read_json, read_tensors

PICKLES = (".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Files:
    """What is in a folder, and which file of it was meant.

    Attributes
    ----------
    source
        The folder or hub id, as it was given.
    folder
        Within the source; empty for the source itself.
    names
        All files of the source, relative to it, as deep as was looked.
    file
        The file of ``folder`` that was meant, if one was.
    fetch
        From a name to a path.
    allow_pickle
        Whether pickles may be read.
    on_disk
        Whether the source is a folder.
    """

    source: str
    folder: str
    names: tuple[str, ...]
    fetch: Callable[[str], Path]
    file: str = ""
    allow_pickle: bool = False
    on_disk: bool = False

    @property
    def where(self) -> str:
        """What messages call it."""
        return "/".join(part for part in (self.source, self.folder, self.file) if part)

    @property
    def parts(self) -> list[str]:
        """The folders on the way to it, the innermost first."""
        return [part for part in reversed(self.where.replace("\\", "/").split("/")) if part]

    @property
    def here(self) -> list[str]:
        """The files of the folder itself; only the one that was meant, if one was."""
        names = [name for name in self.inside if "/" not in name]
        return [self.file] if self.file else names

    @property
    def inside(self) -> list[str]:
        """The files of the folder and of the folders in it."""
        start = f"{self.folder}/" if self.folder else ""
        return [name.removeprefix(start) for name in self.names if name.startswith(start)]

    def has(self, *names: str) -> bool:
        """Whether all of these files are in the folder, and none but one of them was meant."""
        return set(names) <= set(self.inside) and (not self.file or self.file in names)

    def at(self, folder: str, file: str = "") -> Files:
        """Another folder of the same source."""
        return replace(self, folder=_within(self.source, self.folder, folder), file=file)

    def path(self, name: str) -> Path:
        """Where a file of the folder is on disk, once it is there."""
        whole = _within(self.source, self.folder, name)
        if whole not in self.names:
            raise LoadError(f"{self.source} has no file {whole!r}")
        return self.fetch(whole)

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object."""
        return read_json(self.path(name))

    def json_above(self, name: str) -> dict[str, Any]:
        """A JSON object in the folder above, which some layouts share among theirs; empty where there is none."""
        if self.folder:
            above = str(PurePosixPath(self.folder).parent / name)
            return read_json(self.fetch(above)) if above in self.names else {}
        beside = Path(self.source).absolute().parent / name
        return read_json(beside) if self.on_disk and os.path.isfile(beside) else {}

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a safetensors or npz file, at least float32."""
        path = self.path(name)
        held = _read_npz(path) if name.endswith(".npz") else read_tensors(path)[0]
        return {key: widened(value) for key, value in held.items()}

    def pickle(self, name: str) -> dict[str, Any]:
        """What a pickle holds, if it may be read."""
        held = read_pickle(self.path(name), self.allow_pickle, option="allow_pickle=True")
        return {key: widened(value) for key, value in held.items()}


def open_files(source: str | Path, revision: str | None, subfolder: str | None, allow_pickle: bool) -> Files:
    """The files of a folder, of a file's folder, or of a hub repository.

    Raises
    ------
    LoadError
        Where there is no such folder or file, and for a repository that cannot be listed.
    """
    text = str(source)
    path = Path(os.path.expanduser(text))
    if os.path.isfile(path):
        files = _on_disk(str(path.parent), path.parent, path.name)
    elif os.path.isdir(path):
        files = _on_disk(text, path)
    elif text.startswith("hf://"):
        files, subfolder = _hub_address(text, revision, subfolder)
    elif path.is_absolute() or text.startswith((".", "~")) or text.count("/") != 1 or "\0" in text:
        raise LoadError(f"there is no folder or file {text!r}: expected one, or a hub id such as 'owner/name'")
    else:
        files = _on_hub(text, revision)
    files = replace(files, allow_pickle=allow_pickle)
    return files if not subfolder else within(files, subfolder)


def within(files: Files, name: str) -> Files:
    """A folder or file of it, by its name.

    Raises
    ------
    LoadError
        Where there is none, or it is outside.
    """
    whole = _within(files.source, files.folder, name)
    if whole in files.names:
        folder, _, file = whole.rpartition("/")
        return replace(files, folder=folder, file=file)
    if not any(one.startswith(f"{whole}/") for one in files.names):
        raise LoadError(f"{files.where} has no folder or file {name!r}")
    return replace(files, folder=whole, file="")


def _within(source: str, folder: str, name: str) -> str:
    """A name in a folder, refused where it leads out of it."""
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name or "\0" in name:
        raise LoadError(f"{name!r} leads out of {source}: expected a file or folder in it")
    return str(PurePosixPath(folder) / pure)


def _on_disk(source: str, root: Path, file: str = "") -> Files:
    names = []
    for folder, folders, files in os.walk(root):
        below = Path(folder).relative_to(root)
        if file or len(below.parts) > 4:  # deep enough for the deepest layout, and no walk through a whole disk
            folders.clear()
        names += [(below / name).as_posix() for name in files]
    return Files(source, "", tuple(sorted(names)), lambda name: root / name, file, on_disk=source == str(root))


def _hub_address(text: str, revision: str | None, subfolder: str | None) -> tuple[Files, str]:
    """An address hf://owner/name/path?revision=..., as circuit-tracer's configs have them."""
    address = HubAddress.of(text)
    path = "/".join(part for part in (address.path, subfolder) if part)
    return _on_hub(address.repository, address.revision or revision), path


def _on_hub(repository: str, revision: str | None) -> Files:
    import huggingface_hub as hub

    try:
        names = hub.HfApi().list_repo_files(repository, revision=revision)
    except Exception as error:  # the client raises its own, its http library's and Python's
        return _downloaded(repository, revision, error)

    def fetch(name: str) -> Path:
        try:
            return Path(hub.hf_hub_download(repository, name, revision=revision))
        except Exception as error:
            raise LoadError(f"{name!r} of {repository!r} cannot be fetched: {why(error)}") from None

    return Files(repository, "", tuple(names), fetch)


def _downloaded(repository: str, revision: str | None, offline: Exception) -> Files:
    """What of a repository is on disk already, where the hub cannot be asked."""
    import huggingface_hub as hub

    try:
        root = Path(hub.snapshot_download(repository, revision=revision, local_files_only=True))
    except Exception:
        raise LoadError(
            f"{repository!r} is no folder, and no repository of the hub that can be reached: {why(offline)}; "
            "a folder with its files works offline"
        ) from None
    return _on_disk(repository, root)


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise LoadError(f"{path} cannot be read: it holds one array, expected an archive of several")
        with archive as held:
            return {name: torch.from_numpy(held[name]) for name in held.files}
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise LoadError(f"{path} cannot be read: {shortened(str(error))}") from None
