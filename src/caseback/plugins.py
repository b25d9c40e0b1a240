"""What other packages add: families, techniques, architectures and pages, found by entry points.

    [project.entry-points."caseback.families"]
    my_type = "my_package.family:FAMILY"

A group's entries are looked at when something of its kind is looked for; what the package has itself comes first.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from caseback.errors import CasebackError

GROUPS = {
    "families": "a model type, and its `Family` or a function of the config that gives it",
    "techniques": "any name, and a module whose functions stand under `@technique`",
    "architectures": "any name, and a module whose classes stand under `@architecture`",
    "pages": "a document's kind, and the `Page` that draws it",
}


@cache
def offered(group: str) -> dict[str, EntryPoint]:
    """A group's entries by name, none of them loaded.

    Examples
    --------
    >>> sorted(offered("families"))
    []
    """
    return {one.name: one for one in entry_points(group=f"caseback.{group}")}


def loaded(group: str, name: str, expected: Any = object) -> Any:
    """What one entry names, or None where no package offers it; ``expected`` is a type, or several.

    Raises
    ------
    CasebackError
        If it cannot be imported, or is of another type than expected; the message names the package.
    """
    one = offered(group).get(name)
    if one is None:
        return None
    try:
        value = one.load()
    except Exception as error:  # code of another package
        raise CasebackError(f"{_of(one)} cannot be loaded ({type(error).__name__}: {error})") from error
    if not isinstance(value, expected):
        raise CasebackError(f"{_of(one)} is a {type(value).__name__}: expected {GROUPS[group]}")
    return value


@cache
def import_modules(group: str) -> None:
    """Import all modules of a group, so that they register what they have; one that fails is a warning."""
    for name in offered(group):
        try:
            loaded(group, name)
        except CasebackError as error:
            warnings.warn(f"left out: {error}", RuntimeWarning, stacklevel=2)


def _of(one: EntryPoint) -> str:
    package = one.dist.name if one.dist is not None else "a package"
    return f"{one.value!r}, which {package} offers as {one.group} {one.name!r},"
