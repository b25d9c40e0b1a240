"""Text files that people name: read as UTF-8, or refused in one line.

A pipe may be read, as a shell's ``<(...)`` gives it; a device is refused, since one such as ``/dev/zero`` never ends.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from caseback.errors import LoadError
from caseback.jobs.json_text import parse_json, shortened

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")


def open_file(path: str | os.PathLike[str], what: str = "") -> BinaryIO:
    """A file to read bytes from.

    Parameters
    ----------
    path
        The file.
    what
        What it is for, for the refusal: ``"--fit"``.

    Raises
    ------
    LoadError
        For a missing file, a folder, a device, or one that may not be read.
    """
    refuse = f"{what + ' ' if what else ''}{os.fspath(path)!r} cannot be read"
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise LoadError(f"{refuse} (a device): expected a file")
        return open(path, "rb")
    except (OSError, ValueError) as error:
        why = "a folder" if os.path.isdir(path) else "absent" if not os.path.exists(path) else error
        raise LoadError(f"{refuse} ({getattr(why, 'strerror', None) or why}): expected a file") from None


def read_text(path: str | os.PathLike[str], what: str = "") -> str:
    """The text that a UTF-8 file holds.

    Raises
    ------
    LoadError
        As ``open_file``, and for bytes that are not UTF-8.

    Examples
    --------
    >>> read_text("/no/such/file", "--corpus")
    Traceback (most recent call last):
    caseback.errors.LoadError: --corpus '/no/such/file' cannot be read (absent): expected a file
    """
    with open_file(path, what) as file:
        try:
            return file.read().decode("utf-8")
        except OSError as error:
            raise LoadError(f"{what} {os.fspath(path)!r} cannot be read: {error.strerror}".strip()) from None
        except UnicodeDecodeError as error:
            raise LoadError(
                f"{what} {os.fspath(path)!r} is not UTF-8 (byte {error.start}): save it as UTF-8".strip()
            ) from None


def read_texts(path: str | Path, what: str = "") -> list[str]:
    """The texts of a file: one a line, or of JSON the records' ``text``.

    Parameters
    ----------
    path
        A text file; or one named ``.jsonl`` or ``.json``, with records a line or in one array, each a text or an object
        that has one under ``text``.
    what
        What it is for, for the refusal.

    Raises
    ------
    LoadError
        As ``read_text``, and for JSON in which a text is missing.
    """
    whole = read_text(path, what)
    if Path(path).suffix.lower() not in JSON_SUFFIXES:
        return whole.splitlines()
    refuse = f"{what} {os.fspath(path)!r} is no list of texts".strip()
    try:
        if whole.lstrip().startswith("["):
            records = parse_json(whole)
        else:
            records = [parse_json(line) for line in whole.splitlines() if line.strip()]
    except ValueError as error:
        raise LoadError(f"{refuse}: {error}; save it as JSON, or name it .txt if it has a text a line") from None
    texts: list[Any] = [record.get("text") if isinstance(record, dict) else record for record in records]
    wrong = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise LoadError(f"{refuse}: record {wrong} is {shortened(repr(records[wrong]), 80)}, expected a text or 'text'")
    return texts
