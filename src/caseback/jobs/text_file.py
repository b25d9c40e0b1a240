"""Text files that people name: read as UTF-8, or refused in one line.

A pipe may be read, as a shell's ``<(...)`` gives it; a device is refused, since one such as ``/dev/zero`` never ends.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from caseback.errors import LoadError


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


def read_lines(path: str | Path, what: str = "") -> list[str]:
    """The lines of a UTF-8 file, without their ends."""
    return read_text(path, what).splitlines()
