"""What a call came to, and whether that is a fault.

No fault is: a result; a ``CasebackError``; Python's own refusal of a call that does not fit the signature; a
``ValueError``, ``TypeError``, ``KeyError`` or ``IndexError`` that a line of the package raises on purpose, in words.

A fault is: any other exception, above all one from inside torch, numpy or another library, or one that a line of ours
meets rather than raises; a call that takes longer than ``SECONDS``; a file half written, or left over; a model that
differs afterwards.

A thing of the package that stands for a whole subject (a model, a tokenizer, a result that another function gave) is
given as it is: its class is a matter of types. Whatever holds values, and whatever people write by hand, is not.
"""

import linecache
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import caseback
from caseback.errors import CasebackError
from caseback.model.anatomy.sites import SITES

SECONDS = 20  # of computing; of waiting, which a busy machine may make anybody do, six times as long
ON_PURPOSE = (ValueError, TypeError, KeyError, IndexError)
SOURCE = str(Path(caseback.__file__).parent)


class TookTooLong(BaseException):
    """Raised by the alarm; no ``except Exception`` catches it."""


@dataclass(frozen=True)
class Fault:
    """What went wrong, where, and what was given."""

    given: str
    what: str

    def __str__(self) -> str:
        return f"{self.given}\n      {self.what}"


@contextmanager
def time_limit(seconds: int = SECONDS) -> Iterator[None]:
    """Interrupt what computes longer, or waits much longer."""

    def ring(*_):
        raise TookTooLong(f"took longer than {seconds} s")

    before = {kind: signal.signal(kind, ring) for kind in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(6 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for kind, handler in before.items():
            signal.signal(kind, handler)


def fault_of(error: BaseException) -> str | None:
    """Why an exception is a fault, with the line of ours nearest to it; None where it is none."""
    if isinstance(error, CasebackError):
        return None if str(error) else f"{type(error).__name__} without words"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(SOURCE)]
    if isinstance(error, ON_PURPOSE) and str(error):
        if isinstance(error, TypeError) and (not own or "() takes " in str(error)):
            return None  # the signature, ours or that of a function that was given
        last = frames[-1]
        if last.filename.startswith(SOURCE) and _raises(last.filename, last.lineno):
            return None
    if "<lambda>" in str(error) or str(error) == "the user's own error":
        return None
    where = (
        f"{own[-1].filename.removeprefix(SOURCE)}:{own[-1].lineno} {own[-1].line}" if own else "before any line of ours"
    )
    return f"{type(error).__name__}: {str(error)[:160]!r} at {where}"


def _raises(file: str, line: int | None) -> bool:
    return line is not None and linecache.getline(file, line).strip().startswith("raise ")


def attempt(call: Callable[[], Any]) -> tuple[Any, str | None]:
    """What a call gave, and why it was a fault."""
    try:
        with time_limit():
            return call(), None
    except (Exception, TookTooLong) as error:
        return None, fault_of(error)


def written_in(folder: Path) -> dict[Path, bytes | None]:
    """Every file below a folder with what it holds."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def tidy(before: dict[Path, bytes | None], after: dict[Path, bytes | None]) -> None:
    """Remove what a call wrote, and put back what it changed."""
    for path in sorted(after.keys() - before.keys(), reverse=True):
        path.unlink() if after[path] is not None else path.rmdir()
    for path, content in before.items():
        if content is not None and after.get(path) != content:
            path.write_bytes(content)


def restoring(folder: Path) -> Callable[[], None]:
    """A function that puts a folder, and the table of sites, back as they are now.

    Without it, one call may write a page of megabytes where the next one finds its corpus, or leave a site that the
    next one reads. Only sizes and times are compared, since almost no call changes anything.
    """
    before, stats, sites = written_in(folder), _stats(folder), dict(SITES)

    def restore() -> None:
        nonlocal stats
        if sites.keys() != SITES.keys():
            SITES.clear()
            SITES.update(sites)
        if _stats(folder) != stats:
            tidy(before, written_in(folder))
            stats = _stats(folder)

    return restore


def _stats(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: ((stat := path.stat()).st_size, stat.st_mtime_ns) for path in folder.rglob("*")}
