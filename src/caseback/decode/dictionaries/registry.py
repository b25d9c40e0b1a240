"""Architectures by name: a new one is one file with a class behind ``@architecture``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.errors import RegistryError, did_you_mean
from caseback.model.arguments import checked

D = TypeVar("D", bound=type[Dictionary])
_REGISTERED: dict[str, type[Dictionary]] = {}


def architecture(name: str) -> Callable[[D], D]:
    """Register a class under the name that files and commands call it by."""

    def register(cls: D) -> D:
        if name in _REGISTERED:
            raise RegistryError(f"there are two architectures {name!r}: {_REGISTERED[name].__name__}, {cls.__name__}")
        cls.architecture = name
        _REGISTERED[name] = cls
        return cls

    return register


def architectures() -> dict[str, type[Dictionary]]:
    """All registered architectures, by name.

    Examples
    --------
    >>> import caseback.decode.dictionaries
    >>> "topk" in architectures()
    True
    """
    return dict(sorted(_REGISTERED.items()))


@checked
def architecture_of(name: str) -> type[Dictionary]:
    """The class of an architecture.

    Raises
    ------
    RegistryError
        With the nearest names.
    """
    if name not in _REGISTERED:
        raise RegistryError(f"no architecture is called {name!r}. {did_you_mean(name, list(architectures()))}")
    return _REGISTERED[name]
