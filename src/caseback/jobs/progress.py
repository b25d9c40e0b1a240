"""Progress of long work: the one place that shows it, as bars in terminals and notebooks, and as lines elsewhere.

A log, a pipe or a batch system has no use for a bar that is drawn over and over. There, work that takes longer than
``EVERY`` seconds writes a line about as often, with what is done, how many of how many, and how long the rest may take:

    sweep: 120 of 300, 00:12 so far, about 00:18 left

A single step may take longer, and not all work is counted: ``heartbeat`` writes a line where nothing else did.

A program that shows progress in its own way, such as a server, has the bars' numbers from ``watched``.
"""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

from tqdm import std
from tqdm.auto import tqdm

EVERY = 10.0
"""Seconds between lines of progress."""

_LINE = "{desc}: {n_fmt} of {total_fmt}, {elapsed} so far, about {remaining} left"
_WITHOUT_END = "{desc}: {n_fmt}, {elapsed} so far"

_as_lines: WeakSet[tqdm] = WeakSet()

Listener = Callable[[str, int, int | None], None]
"""Is given a bar's name, how much is done, and of how much."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


class _Bar(tqdm):
    """A bar with a lock of its own, which Python takes and gives back in single steps.

    tqdm's own lock is taken in a function written in Python: an interrupt there leaves it held, and every other thread
    that makes a bar, a hidden one too, waits for ever.
    """

    _lock = threading.RLock()


class _Watched(std.tqdm):
    """A bar that is drawn by telling a listener where it stands."""

    _lock = threading.RLock()

    def __init__(self, *given: Any, listener: Listener, **options: Any) -> None:
        self._listener = listener
        # tqdm ends the line of every bar, of this one too, on which nothing stands
        super().__init__(*given, file=io.StringIO(), **options)

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> bool:
        """Tell the listener, whose exception ends the work: not under the lock, which tqdm would never give back."""
        if not self.disable and not nolock:  # without the lock it is tqdm's monitor that asks, in a thread of its own
            self._listener(self.desc.removesuffix(": "), int(self.n), None if self.total is None else int(self.total))
        return True

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw nothing."""
        return True


@contextmanager
def watched(listener: Listener) -> Iterator[None]:
    """While the block runs, tell ``listener`` where its bars stand, whether they would be shown or not.

    Parameters
    ----------
    listener
        Called with a bar's name, how much is done, and of how much (None where that is not known), some times a second.
        What it raises ends the work there, and the model is left as after any exception: so work is canceled.

    Examples
    --------
    >>> heard = []
    >>> with watched(lambda what, n, total: heard.append((what, n, total))):
    ...     squares = [n * n for n in progress_bar([1, 2, 3], "squares", show=False)]
    >>> heard[0]
    ('squares', 0, 3)
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def progress_bar(
    items: Iterable[Any] | None = None,
    what: str | None = None,
    *,
    show: bool,
    total: int | None = None,
    initial: int = 0,
    unit: str = "step",
    unit_scale: bool = False,
) -> std.tqdm:
    """A bar over items, or one that is moved by hand with ``update``.

    Parameters
    ----------
    items
        What is iterated over; None for a bar that is moved by hand.
    what
        The name in front of the bar; by default the unit.
    show
        Whether there is anything to see: without it the items are iterated over all the same.
    total, initial
        How many there are, where the items do not tell, and how many were done by an earlier call.
    unit, unit_scale
        What is counted, and whether thousands are written as k.

    Examples
    --------
    >>> list(progress_bar([1, 2, 3], "squares", show=False))
    [1, 2, 3]
    """
    if (listener := _listener.get()) is not None:
        return _Watched(items, listener=listener, desc=what or unit, total=total, initial=initial)
    lines: dict[str, Any] = {"leave": None}  # a bar within another goes when it is done
    if show and not _drawn_over():
        lines = {"file": _Lines(), "mininterval": EVERY, "delay": EVERY, "miniters": 1, "leave": False}
        known = total is not None or hasattr(items, "__len__")
        lines["bar_format"] = _LINE if known else _WITHOUT_END
    bar = _Bar(
        items,
        desc=what if what or "file" not in lines else unit,
        disable=not show,
        total=total,
        initial=initial,
        unit=unit,
        unit_scale=unit_scale,
        **lines,
    )
    if "file" in lines:
        _as_lines.add(bar)
    return bar


@contextmanager
def heartbeat(what: str) -> Iterator[None]:
    """While the block runs, a line every ``EVERY`` seconds in which no bar wrote one; nothing on a terminal.

    Parameters
    ----------
    what
        What runs: said where no bar is open, which would say more.

    Examples
    --------
    >>> with heartbeat("squares"):
    ...     sum(n * n for n in range(10))
    285
    """
    if _drawn_over():
        yield
        return
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(what, over), daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()


def _beat(what: str, over: threading.Event) -> None:
    began = _Lines.written = time.monotonic()
    lines = _Lines()
    while not over.wait(max(0.0, _Lines.written + EVERY - time.monotonic())):
        now = time.monotonic()
        if now - _Lines.written >= EVERY:
            lines.write(_innermost() or f"{what}: {tqdm.format_interval(now - began)} so far")


def _innermost() -> str:
    """The line of the bar that was opened last, of those that are open and written as lines."""
    still = [bar for bar in list(_as_lines) if not bar.disable]
    return str(max(still, key=lambda bar: bar.start_t)) if still else ""


def _drawn_over() -> bool:
    """Whether standard error is a terminal, or the bar a widget of a notebook."""
    return sys.stderr.isatty() or tqdm.__module__ == "tqdm.notebook"


class _Lines:
    """Standard error as a bar's file: what it draws is a line, and what it draws to wipe itself out is nothing.

    Attributes
    ----------
    written
        When a line was last written, by any of them.
    """

    written = 0.0

    def write(self, text: str) -> None:
        line = text.replace("\x1b[A", "").strip("\r\n ")  # a bar within another moves up and down
        if line:
            sys.stderr.write(f"{line}\n")
            _Lines.written = time.monotonic()

    def flush(self) -> None:
        sys.stderr.flush()
