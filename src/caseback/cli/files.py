"""Files that a command will write, checked as the line is read: before any work is done."""

from pathlib import Path

from caseback.errors import CasebackError


def writable(path: Path | None) -> Path | None:
    """Refuse a file in a folder that is not there."""
    if path is not None and not path.parent.is_dir():
        raise CasebackError(f"cannot write {str(path)!r}: there is no folder {str(path.parent)!r}")
    return path


def not_a_page(path: Path | None) -> Path | None:
    """Refuse what ``--save`` was in earlier versions: a page."""
    if path is not None and path.suffix == ".html":
        raise CasebackError(f"--save {path} names a page: --html {path} writes it, --save writes what is fitted")
    return writable(path)
