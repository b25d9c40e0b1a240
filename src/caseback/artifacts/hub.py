"""Fitted things on the Hugging Face hub, each by its address: hf://owner/name/path?revision=…

Whatever loads a fitted thing takes such an address in the place of a path. A file is fetched into the hub's own cache,
and checked like any other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from caseback.errors import LoadError
from caseback.jobs.json_text import shortened

SCHEME = "hf://"


@dataclass(frozen=True)
class HubAddress:
    """A file or folder of a repository.

    Attributes
    ----------
    repository
        As ``owner/name``.
    path
        Within it; empty for the repository itself.
    revision
        A branch, tag or commit; None for the newest.
    """

    repository: str
    path: str = ""
    revision: str | None = None

    @classmethod
    def of(cls, text: str) -> HubAddress:
        """Read an address.

        Raises
        ------
        LoadError
            If it is none, or leads out of its repository.

        Examples
        --------
        >>> HubAddress.of("hf://ours/lenses/meadow/tuned.safetensors?revision=v2")
        HubAddress(repository='ours/lenses', path='meadow/tuned.safetensors', revision='v2')
        """
        place, _, query = text.removeprefix(SCHEME).partition("?")
        owner, _, rest = place.partition("/")
        name, _, path = rest.partition("/")
        revision = query.removeprefix("revision=") if query.startswith("revision=") else None
        bad = not text.startswith(SCHEME) or not owner or not name or (query and not revision)
        if bad or ".." in path.split("/") or "\\" in text or "\0" in text:
            raise LoadError(f"{text!r} is no address of a hub file: expected hf://owner/name/path")
        return cls(f"{owner}/{name}", path.strip("/"), revision)


def local_file(path: str | os.PathLike[str]) -> Path:
    """Where a file is on disk; one of the hub is fetched first.

    Raises
    ------
    LoadError
        If it cannot be fetched.
    """
    text = os.fspath(path)
    if not text.startswith(SCHEME):
        return Path(path)
    address = HubAddress.of(text)
    if not address.path:
        raise LoadError(f"{text!r} is a repository: expected a file in it, as hf://owner/name/path")
    import huggingface_hub as hub

    try:
        return Path(hub.hf_hub_download(address.repository, address.path, revision=address.revision))
    except Exception as error:  # the client raises its own, its http library's and Python's
        raise LoadError(f"{text!r} cannot be fetched: {why(error)}") from None


def file_in(folder: str | os.PathLike[str], name: str) -> Path:
    """Where a file of a folder is on disk; one of a folder on the hub is fetched first.

    Raises
    ------
    LoadError
        If it cannot be fetched.
    """
    text = os.fspath(folder)
    if not text.startswith(SCHEME):
        return Path(folder) / name
    place, mark, revision = text.partition("?")
    return local_file(f"{place.rstrip('/')}/{name}{mark}{revision}")


def why(error: Exception) -> str:
    """What the hub's client has against a request, in a line."""
    text = str(error).strip().splitlines()
    return shortened(f"{type(error).__name__}: {text[0] if text else 'no reason given'}")
