"""Files that are written whole or not at all: to another name in the same folder, then moved into place.

What stands at the path stays what it is: a symbolic link is written through, a hard link keeps its other names, a
file keeps its mode. What is not a regular file, a device or a pipe, is refused.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from caseback.errors import WriteError


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name to write to; the file takes its own name when the block ends well, and is gone when it does not.

    Raises
    ------
    WriteError
        Where the path cannot be written to, at once, or where writing fails.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with whole_file(Path(folder) / "a.txt") as draft:
    ...         _ = draft.write_text("all of it")
    ...     os.listdir(folder)
    ['a.txt']
    """
    target = _target(path)
    # not named after the file: a name may be as long as file systems allow
    draft = target.with_name(f".caseback-{secrets.token_hex(8)}.part")
    try:
        # made here, so that it has the mode of any other new file; some libraries then put another in its place
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = draft.stat().st_mode
        yield draft
        _put(draft, target, mode)
    except OSError as error:
        raise WriteError(f"cannot write {os.fspath(path)}: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)


def expect_writable(path: str | os.PathLike[str], what: str = "") -> Path:
    """The file that writing to a path changes, links followed; refused before any work where it cannot be written.

    Parameters
    ----------
    path
        Where somebody wants to write.
    what
        What is to be written, for the refusal: ``"the page"``.

    Raises
    ------
    WriteError
        For a folder, a device, a pipe, a file that may not be written, a folder that is missing or may not be written.

    Examples
    --------
    >>> expect_writable("/no/such/folder/page.html", "the page")
    Traceback (most recent call last):
    caseback.errors.WriteError: cannot write the page to /no/such/folder/page.html: there is no folder ...
    """
    target = _target(path, what)
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            return target
    except OSError as error:
        raise WriteError(
            f"{_refusal(path, what)}: {error.strerror or error}; check the folder's permissions and free space"
        ) from error


def make_folder(path: str | os.PathLike[str], what: str) -> Path:
    """A folder to keep things in: there already, or made now; refused before any work where it cannot be written.

    Parameters
    ----------
    path
        The folder; those above it are made too.
    what
        What is to be kept in it, for the refusal: ``"the store"``.

    Raises
    ------
    WriteError
        For a file in its place or above it, and where no folder can be made or written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise WriteError(f"{_refusal(path, what)}: {why}; choose another folder") from error


def _refusal(path: str | os.PathLike[str], what: str) -> str:
    return f"cannot write {what + ' to ' if what else ''}{os.fspath(path)}"


def _target(path: str | os.PathLike[str], what: str = "") -> Path:
    """The file that writing to a path changes, refused for what stands at the path and around it."""
    refuse = _refusal(path, what)
    try:
        asked = Path(path)
        target = Path(os.path.realpath(asked)) if os.path.islink(asked) else asked
        mode = _mode(target)
    except (OSError, ValueError) as error:
        raise WriteError(f"{refuse}: {getattr(error, 'strerror', None) or error}; choose another path") from error
    if mode is not None and stat.S_ISDIR(mode):
        raise WriteError(f"{refuse}: it is a folder; add the name of a file")
    if mode is not None and not stat.S_ISREG(mode):
        raise WriteError(f"{refuse}: it is a device, a pipe or a socket; name a file")
    if not os.path.isdir(target.parent):
        raise WriteError(f"{refuse}: there is no folder {str(target.parent)!r}; make it first, or choose another path")
    if mode is not None and not os.access(target, os.W_OK):
        raise WriteError(f"{refuse}: the file may not be changed; check its permissions, or choose another path")
    return target


def _mode(path: Path) -> int | None:
    """What stands at a path, None for nothing; a name that no file can have is an error."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _put(draft: Path, target: Path, mode: int) -> None:
    """Give a draft its place, with the mode of the file that stands there, or else this one."""
    if os.path.exists(target):
        there = target.stat()
        if there.st_nlink > 1:  # a new file would leave the other names with the old content
            with draft.open("rb") as source, target.open("r+b") as file:
                shutil.copyfileobj(source, file)
                file.truncate()
            return
        mode = there.st_mode
    draft.chmod(stat.S_IMODE(mode))
    os.replace(draft, target)
