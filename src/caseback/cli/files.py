"""Files that a command will write, checked as the line is read: before any work is done."""

from pathlib import Path

from caseback.errors import CasebackError
from caseback.jobs.whole_file import expect_writable


def writable(path: Path | None) -> Path | None:
    """Refuse a file that cannot be written: no folder, no permission, or not a regular file."""
    if path is not None:
        expect_writable(path)
    return path


def not_a_page(path: Path | None) -> Path | None:
    """Refuse what ``--save`` was in earlier versions: a page."""
    if path is not None and path.suffix == ".html":
        raise CasebackError(f"--save {path} names a page: --html {path} writes it, --save writes what is fitted")
    return writable(path)
