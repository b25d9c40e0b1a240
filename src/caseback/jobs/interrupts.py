"""Ctrl-C that waits until a step is whole, so that what has been done by then can be saved before the work ends.

    with after_this_step() as asked:
        for step in steps:
            ...
            if asked():
                save(), and raise KeyboardInterrupt

Who works in several threads or has a handler of their own keeps the interrupts that they have.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def after_this_step() -> Iterator[Callable[[], bool]]:
    """Have Ctrl-C wait: gives a function that says whether somebody pressed it, who is obeyed at the end at the latest.

    The second time it interrupts at once. In another thread than the main one, and where a program has a handler of its
    own, interrupts are as they were.

    Raises
    ------
    KeyboardInterrupt
        At the end, where it was pressed and nothing else was raised.

    Examples
    --------
    >>> import signal
    >>> done = []
    >>> try:
    ...     with after_this_step() as asked:
    ...         for step in range(3):
    ...             signal.raise_signal(signal.SIGINT)
    ...             done.append(step)
    ...             if asked():
    ...                 break
    ... except KeyboardInterrupt:
    ...     print(done)
    [0]
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield lambda: False
        return
    pressed: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        if pressed:
            signal.default_int_handler(number, frame)
        pressed.append(number)

    signal.signal(signal.SIGINT, wait)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
