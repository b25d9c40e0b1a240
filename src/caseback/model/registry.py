"""The list of techniques, which makes the docs' table, `caseback techniques` and the CLI's choices.

A technique is one public function. Its decorator says which entries of the Primer it implements, who
published it and what it costs; the function itself stays as it is and carries that record as `.technique`.
"""

import importlib
import pkgutil
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from caseback.errors import RegistryError

F = TypeVar("F", bound=Callable[..., Any])

# Where techniques live. Names rather than imports: `model` must not depend on the folders above it.
PACKAGES = ("caseback.model", "caseback.localize", "caseback.decode", "caseback.behaviors")

_ENTRY = re.compile(r"[2-6](\.[1-9][0-9]*){1,2}")
_registered: dict[tuple[str, str], "Technique"] = {}


@dataclass(frozen=True)
class Technique:
    """One technique: the function and what is known of it.

    Attributes
    ----------
    function
        The function itself.
    entry
        The Primer's entries that it implements, such as `("3.1.3",)`.
    citation
        Who published it, as "authors year".
    cost
        What a call costs, in words, such as "steps x (forward + backward)".
    dims
        Dimensions of the result, where they are not what the signature makes one expect; else None.
    """

    function: Callable[..., Any]
    entry: tuple[str, ...]
    citation: str
    cost: str
    dims: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """Where the function is found under `caseback`: `localize.inputs.integrated_gradients`.

        The file's own name, and the rooms around it, are left out up to the nearest folder that publishes the function,
        as a caller would.
        """
        where, name = self.function.__module__, self.function.__qualname__
        folder = where.rpartition(".")[0]
        while folder:
            if getattr(sys.modules.get(folder), name, None) is self.function:
                where = folder
                break
            folder = folder.rpartition(".")[0]
        return f"{where}.{name}".removeprefix("caseback.")

    @property
    def summary(self) -> str:
        """The first paragraph of the function's docstring, on one line."""
        return " ".join((self.function.__doc__ or "").strip().split("\n\n")[0].split())


def technique(
    *, entry: tuple[str, ...], citation: str, cost: str, dims: tuple[str, ...] | None = None
) -> Callable[[F], F]:
    """Register a public function as a technique; the function is returned unchanged.

    Parameters
    ----------
    entry
        The Primer's entries that it implements.
    citation
        Who published it, as "authors year".
    cost
        What a call costs, in words.
    dims
        Dimensions of the result. Only a function that is called like an input attribution, ``(model, tokens,
        metric)``, and gives something else than one score a token has to say them.

    Raises
    ------
    RegistryError
        Where an entry is not a number of the Primer's sections 2 to 6, the citation or the cost is empty,
        the function has no docstring or its name is already registered.

    Examples
    --------
    ::

        @technique(entry=("3.1.7",), citation="Li et al. 2016", cost="one forward a token")
        def occlusion(model, tokens, metric): ...
    """

    def register(function: F) -> F:
        key = (function.__module__, function.__qualname__)
        label = ".".join(key)
        if isinstance(entry, str) or not entry:
            raise RegistryError(f"{label}: entry={entry!r} should be a tuple of numbers, such as ('3.1.3',).")
        for number in entry:
            if not _ENTRY.fullmatch(number):
                raise RegistryError(
                    f"{label}: {number!r} is no entry of the Primer. Expected a section from 2 to 6 and one "
                    "or two numbers after it, such as '2.8' or '3.1.3'."
                )
        if not citation.strip() or not cost.strip():
            raise RegistryError(f"{label}: a technique needs a citation and a cost; one of them is empty.")
        # `python -OO` strips docstrings: nothing to hold against the function then.
        if sys.flags.optimize < 2 and not (function.__doc__ or "").strip():
            raise RegistryError(f"{label}: a technique needs a docstring; its first paragraph is the summary.")
        if key in _registered:
            raise RegistryError(f"{label} is already registered. Give one of the two functions another name.")
        record = Technique(function, tuple(entry), citation.strip(), cost.strip(), dims)
        _registered[key] = record
        function.technique = record  # pyright: ignore[reportFunctionMemberAccess]
        return function

    return register


def techniques(within: str | None = None) -> list[Technique]:
    """List every technique of the package, by entry and then by name.

    All modules that may hold one are imported first, so the list is whole whatever was imported before.
    This takes seconds the first time, since torch and the rest come with them.

    Parameters
    ----------
    within
        One package, such as ``"caseback.localize.inputs"``: only its modules are imported and listed.

    Examples
    --------
    ::

        [t.name for t in techniques() if "3.1.3" in t.entry]   # whatever does integrated gradients
    """
    for package in PACKAGES if within is None else (within,):
        _import_all(package)
    found = [t for t in _registered.values() if within is None or f"{t.function.__module__}.".startswith(f"{within}.")]
    return sorted(found, key=lambda t: ([_by_number(e) for e in t.entry], t.name))


def _import_all(name: str) -> None:
    # Not pkgutil.walk_packages: it passes over a package that fails to import, and the list would be short.
    module = importlib.import_module(name)
    for found in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}."):
        _import_all(found.name)


def _by_number(entry: str) -> tuple[int, ...]:
    return tuple(int(part) for part in entry.split("."))
