"""What a published layout is: how its files are known, how they are read, and how they are written if they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.formats.files import Files
from caseback.model.running.model import Model


@dataclass(frozen=True)
class Asked:
    """What the caller of ``load`` asked for.

    Attributes
    ----------
    model
        The model whose states are to be read, if it is at hand.
    force
        Whether what a layout leaves open is taken as if there were nothing.
    """

    model: Model | None = None
    force: bool = False


@dataclass(frozen=True)
class Layout:
    """One published layout.

    Attributes
    ----------
    name
        As ``format`` takes it.
    files
        What is looked for, in words.
    matches
        Whether these files are of the layout.
    read
        A dictionary of them.
    write
        A dictionary into a folder; None for a layout that is only read.
    keys
        For a layout that is one pickle: the names in it by which it is known.
    """

    name: str
    files: str
    matches: Callable[[Files], bool]
    read: Callable[[Files, Asked], Dictionary]
    write: Callable[[Dictionary, Path], None] | None = None
    keys: frozenset[str] = frozenset()
