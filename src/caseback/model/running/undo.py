"""What a call changes in a user's model or in torch's state, put back however the call ends, Ctrl-C included.

Python lets an interrupt in between two of its own steps: after ``__enter__`` has changed something and before the
``with`` that would put it back has begun, or as ``__exit__`` starts. It never does inside a step that is written in C.
So each change and the note of what puts it back are one such step, and so are all puttings-back together:

    changed and noted:  drain(starmap(call, (change, (append, back))))
    put back:           drain(starmap(call, iter(notes.pop, None)))

Changes and what puts them back must therefore be C functions on C data: ``dict.__setitem__``, ``list.append``, a lock's
``acquire``, a tensor's ``requires_grad_``; not ``setattr`` of a module, which is Python.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from itertools import islice, starmap
from operator import call
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Step = tuple[Any, ...]
"""A C function and what it is called with."""

_drain = deque(maxlen=0).extend  # runs an iterator to its end and keeps nothing
_MISSING = object()


class Undo:
    """The changes of one call that are not put back yet, the latest last.

    Attributes
    ----------
    put_back
        Puts back all of them, once: call it in a ``finally`` whose ``try`` began before the first change.
    """

    def __init__(self) -> None:
        self._notes: list[Step | None] = [None]
        self.put_back: Callable[[], None] = partial(_drain, starmap(call, iter(self._notes.pop, None)))

    def change(self, change: Step, back: Step) -> None:
        """Make a change and note what puts it back."""
        _drain(starmap(call, (change, (self._notes.append, back))))

    def put(self, table: dict, key: Any, value: Any) -> None:
        """Set an entry of a dict, such as an object's ``__dict__``; its former value, or none, comes back."""
        before = table.get(key, _MISSING)
        back = (table.pop, key, None) if before is _MISSING else (table.__setitem__, key, before)
        self.change((table.__setitem__, key, value), back)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Put back what was changed inside as the context ends; what an interrupt leaves, ``put_back`` gets."""
        mark = len(self._notes)
        try:
            yield
        finally:
            _drain(starmap(call, islice(iter(self._notes.pop, None), max(len(self._notes) - mark, 0))))


_undo: ContextVar[Undo | None] = ContextVar("caseback_undo", default=None)


def current_undo() -> Undo:
    """The innermost call's; outside all calls a new one, whose scopes put back what no interrupt keeps them from."""
    return _undo.get() or Undo()


def as_found(function: Callable[P, R], *, gradients: bool = False) -> Callable[P, R]:
    """Decorate a function that runs models: whatever it changes through its ``Undo`` is put back however it ends.

    Torch's gradient mode is put back too, since an interrupt may leave it as ``torch.no_grad`` had it. With
    ``gradients`` the function starts with gradients on, whatever its caller has set.
    """

    @wraps(function)
    def leaving_all_as_found(*args: P.args, **kwargs: P.kwargs) -> R:
        import torch  # here, so that techniques can be listed without it

        undo = Undo()
        put_back = undo.put_back
        grad, outer = torch.is_grad_enabled(), _undo.get()
        try:
            undo.change((_undo.set, undo), (_undo.set, outer))
            undo.change((torch._C._set_grad_enabled, grad or gradients), (torch._C._set_grad_enabled, grad))
            return function(*args, **kwargs)
        finally:
            try:
                put_back()
            finally:
                put_back()  # goes on with the rest, should a torch function mode have let an interrupt into the first

    return leaving_all_as_found
