"""How objects show themselves: a table from an object's class to what draws it, which ``caseback.views`` fills.

Nothing below the views knows how anything is drawn. A class that derives from ``Displayed`` looks itself up when a
notebook or ``rich`` asks for it; the first look imports what fills the table, by name, so that an object that nobody
looks at costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from threading import RLock
from typing import Any

Drawer = Callable[[Any], Any]

FILLED_BY = "caseback.views.cells.table"
_DRAWERS: dict[str, Drawer] = {}
_LOCK = RLock()  # the module that fills the table enters its rows while it is imported
_filled = False


def displays(name: str, drawer: Drawer) -> None:
    """Enter what draws the objects of a class and of those derived from it.

    Parameters
    ----------
    name
        The class, as ``module.Class``.
    drawer
        From an object to what has ``html`` and ``__rich__``.
    """
    with _LOCK:
        _DRAWERS[name] = drawer


def drawer_of(value: object) -> Drawer | None:
    """What draws an object: the nearest of its classes that the table has; None where it has none."""
    global _filled
    if not _filled:
        with _LOCK:
            import_module(FILLED_BY)
            _filled = True
    for cls in type(value).__mro__:
        drawer = _DRAWERS.get(f"{cls.__module__}.{cls.__qualname__}")
        if drawer is not None:
            return drawer
    return None


class Displayed:
    """An object that notebooks and ``rich`` show by the table."""

    __slots__ = ()

    def _repr_html_(self) -> str | None:
        drawer = drawer_of(self)
        return None if drawer is None else drawer(self).html

    def __rich__(self) -> Any:
        drawer = drawer_of(self)
        return repr(self) if drawer is None else drawer(self).__rich__()
