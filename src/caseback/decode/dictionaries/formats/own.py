"""Our own layout in a folder: ``dictionary.safetensors``, or one file of another name; see ``saved_dictionaries``."""

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


def ours(files: Files) -> list[str]:
    """The files of a folder that hold a dictionary of ours, or the one that was meant if it does."""
    if not files.on_disk and not files.file and NAME not in files.here:
        return []  # a hub's files are not fetched to see what they are
    return [name for name in files.here if name.endswith(".safetensors") and _is_own(files, name)]


def _name(files: Files) -> str:
    return files.file or (NAME if NAME in files.here else next(iter(ours(files)), NAME))


def _matches(files: Files) -> bool:
    return files.has(NAME) or len(ours(files)) == 1


def _is_own(files: Files, name: str) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(files.path(name), "pt") as file:
            return (file.metadata() or {}).get("format", "").startswith("caseback ")
    except (OSError, SafetensorError):
        return False  # the layout that its name tells says what is wrong with it


LAYOUT = Layout("caseback", NAME, _matches, read, write)
