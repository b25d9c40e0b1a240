"""Our own layout in a folder: ``dictionary.safetensors``; see ``saved_dictionaries`` for what is in it."""

from __future__ import annotations

from pathlib import Path

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.formats.files import Files
from caseback.decode.dictionaries.formats.layout import Asked, Layout
from caseback.decode.dictionaries.formats.saved_dictionaries import load_dictionary, save_dictionary

NAME = "dictionary.safetensors"


def read(files: Files, asked: Asked) -> Dictionary:
    """A dictionary of ours."""
    return load_dictionary(files.path(_name(files)))


def write(dictionary: Dictionary, folder: Path) -> None:
    """A dictionary as it is, whatever it is."""
    save_dictionary(dictionary, folder / NAME)


def _name(files: Files) -> str:
    return files.file or NAME


def _matches(files: Files) -> bool:
    return files.here == [NAME] or files.has(NAME) or (files.file.endswith(".safetensors") and _is_own(files))


def _is_own(files: Files) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(files.path(files.file), "pt") as file:
            return (file.metadata() or {}).get("format", "").startswith("caseback ")
    except (OSError, SafetensorError):
        return False  # the layout that its name tells says what is wrong with it


LAYOUT = Layout("caseback", NAME, _matches, read, write)
