"""Architectures by name: a new one is one file with a class behind ``@architecture``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.errors import RegistryError, did_you_mean
from caseback.model.arguments import checked
from caseback.plugins import import_modules

D = TypeVar("D", bound=type[Dictionary])
_REGISTERED: dict[str, type[Dictionary]] = {}


@checked
def architecture(name: str) -> Callable[[D], D]:
    """Register a class under the name that files and commands call it by."""

    def register(cls: D) -> D:
        if name in _REGISTERED:
            raise RegistryError(f"there are two architectures {name!r}: {_REGISTERED[name].__name__}, {cls.__name__}")
        cls.architecture = name
        cls.__init__ = _with_all_parameters(cls)
        checked(cls)
        _REGISTERED[name] = cls
        return cls

    return register


def _with_all_parameters(cls: type[Dictionary]) -> Callable[..., None]:
    """A class's constructor under its whole signature: what each class of its line adds to ``Dictionary``'s own.

    Constructors hand on what they do not know, so a reader, and the door of arguments, would see ``**options`` alone.
    """
    own = cls.__init__
    parameters: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    for base in reversed([one for one in cls.__mro__ if issubclass(one, Dictionary) and "__init__" in vars(one)]):
        of_base = inspect.unwrap(vars(base)["__init__"])
        known = get_type_hints(of_base)
        for name, parameter in inspect.signature(of_base).parameters.items():
            if name != "self" and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                parameters[name], hints[name] = parameter, known[name]

    def __init__(self: Dictionary, *args: Any, **kwargs: Any) -> None:
        own(self, *args, **kwargs)

    whole = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD), *parameters.values()]
    signature = inspect.Signature(sorted(whole, key=lambda p: (p.kind, p.default is not p.empty and p.kind != 3)))
    __init__.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    __init__.__annotations__ = hints
    __init__.__doc__ = own.__doc__
    return __init__


def architectures() -> dict[str, type[Dictionary]]:
    """All registered architectures, by name: the package's, and those of packages that add to it.

    Examples
    --------
    >>> import caseback.decode.dictionaries
    >>> "topk" in architectures()
    True
    """
    import_modules("architectures")
    return dict(sorted(_REGISTERED.items()))


@checked
def architecture_of(name: str) -> type[Dictionary]:
    """The class of an architecture.

    Raises
    ------
    RegistryError
        With the nearest names.
    """
    if name not in _REGISTERED and name not in architectures():
        raise RegistryError(f"no architecture is called {name!r}. {did_you_mean(name, list(architectures()))}")
    return _REGISTERED[name]
