"""Warnings of the package, also for programs whose users see no standard error.

``warnings.catch_warnings`` changes the whole process, so in a server one thread's block takes another's warnings, and
Python shows a line's warning once. ``heard`` collects what its own block warns of, each time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listening: ContextVar[list[str] | None] = ContextVar("listening", default=None)


def warn(text: str, category: type[Warning] = UserWarning, *, stacklevel: int = 1) -> None:
    """``warnings.warn``, or a line of the list of the innermost ``heard`` around it.

    Parameters
    ----------
    text
        What is warned of. A list has each text once.
    category
        The warning's class.
    stacklevel
        As in ``warnings.warn``: 1 is the caller of this function.
    """
    listening = _listening.get()
    if listening is None:
        warnings.warn(text, category, stacklevel=stacklevel + 1)
    elif text not in listening:
        listening.append(text)


@contextmanager
def heard() -> Iterator[list[str]]:
    """While the block runs, what the package warns of in this thread goes into a list, and nowhere else.

    Examples
    --------
    >>> with heard() as warnings_of_it:
    ...     warn("the context is empty")
    >>> warnings_of_it
    ['the context is empty']
    """
    lines: list[str] = []
    token = _listening.set(lines)
    try:
        yield lines
    finally:
        _listening.reset(token)
