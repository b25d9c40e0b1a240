"""The list of techniques, which makes the docs' table, `caseback techniques` and the CLI's choices.

A technique is one public function. Its decorator says which entries of the Primer it implements, who
published it, what it costs and which role it plays; the function carries that record as
`.technique`. What comes after the Primer has an identifier of its own, `B.12`; `docs/beyond.md` has their table.

A role says how its functions are called and what they give. It is checked when a function is registered, so whoever
asks for a role, a comparison, a command, a contract test, can call what it gets.
"""

import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from caseback.errors import RegistryError, did_you_mean
from caseback.model.arguments import checked
from caseback.model.running.undo import as_found
from caseback.plugins import import_modules

F = TypeVar("F", bound=Callable[..., Any])

# Where techniques live. Names rather than imports: `model` must not depend on the folders above it.
PACKAGES = ("caseback.model", "caseback.localize", "caseback.decode", "caseback.edit", "caseback.behaviors")

_ENTRY = re.compile(r"[2-6](\.[1-9][0-9]*){1,2}|B\.[1-9][0-9]*")
_registered: dict[tuple[str, str], "Technique"] = {}


@dataclass(frozen=True)
class Role:
    """What functions of one kind have in common.

    Attributes
    ----------
    called_with
        Their first parameters, by name.
    gives
        Types of result, of which one is named in the annotation; any where there is none.
    needs
        Keywords that must be given, though only by a caller who knows the role. All else has a default.
    dims
        Dimensions of the result, where they are the same for all.
    closed
        Whether nothing else must be given, so that anybody can call it.
    """

    called_with: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()
    dims: tuple[str, ...] | None = None
    closed: bool = False


ROLES = {
    "input attribution": Role(("model", "tokens", "metric"), ("DataArray",), dims=("batch", "pos"), closed=True),
    "input attribution of another kind": Role(("model",)),
    "context mixing": Role(),
    "training-data attribution": Role(gives=("DataArray", "Dataset")),
    "judgement": Role(),
    "component effect": Role(("model",)),
    "circuit finder": Role(
        ("model", "clean", "corrupt", "metric"),
        ("DataArray", "Circuit"),
        frozenset({"threshold", "edges", "count", "n_edges"}),
        closed=True,
    ),
    "circuit": Role(("model",)),
    "causal abstraction": Role(("model", "data")),
    "decomposition": Role(("model",)),
    "lens": Role(("model",)),
    "weights in words": Role(("model",), ("Dataset",)),
    "unit": Role(("model",)),
    "decoding": Role(("model",), ("Tokens",)),
    "detector": Role(("model",), ("Findings",)),
}


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
        Dimensions of the result, where they are not those of its role; else None.
    role
        One of `ROLES`; empty where it plays none.
    """

    function: Callable[..., Any]
    entry: tuple[str, ...]
    citation: str
    cost: str
    dims: tuple[str, ...] | None = None
    role: str = ""

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
    *,
    entry: tuple[str, ...],
    citation: str,
    cost: str,
    role: str = "",
    dims: tuple[str, ...] | None = None,
) -> Callable[[F], F]:
    """Register a public function as a technique, behind the door that refuses arguments of another kind.

    What it returns leaves models and torch as found (``as_found``).

    Parameters
    ----------
    entry
        The Primer's entries that it implements, or identifiers of what came after it, such as ``B.1``.
    citation
        Who published it, as "authors year".
    cost
        What a call costs, in words.
    role
        One of `ROLES`, whose calling convention the function keeps.
    dims
        Dimensions of the result, where they are worth saying and not those of its role.

    Raises
    ------
    RegistryError
        Where an entry is not a number of the Primer's sections 2 to 6 or a ``B.n``, the citation or the cost is
        empty, the function has no docstring, its name is already registered, or it does not fit its role.

    Examples
    --------
    ::

        @technique(role="input attribution", entry=("3.1.7",), citation="Li et al. 2016", cost="one forward per token")
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
                    f"{label}: {number!r} is not an entry of the Primer. Expected a section from 2 to 6 and one "
                    "or two numbers after it, such as '2.8' or '3.1.3', or 'B.' and a number for what came after it."
                )
        if not citation.strip() or not cost.strip():
            raise RegistryError(f"{label}: a technique needs a citation and a cost; one of them is empty.")
        # `python -OO` strips docstrings: nothing to hold against the function then.
        if sys.flags.optimize < 2 and not (function.__doc__ or "").strip():
            raise RegistryError(f"{label}: a technique needs a docstring; its first paragraph is the summary.")
        if key in _registered:
            raise RegistryError(f"{label} is already registered. Give one of the two functions another name.")
        _expect_role(function, role, dims, label)
        function = cast(F, as_found(checked(function), gradients=True))
        record = Technique(function, tuple(entry), citation.strip(), cost.strip(), dims, role)
        _registered[key] = record
        function.technique = record  # pyright: ignore[reportFunctionMemberAccess]
        return function

    return register


@checked
def techniques(within: str | None = None) -> list[Technique]:
    """List every technique of the package and of those that add to it, by entry and then by name.

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
    if within is not None and not (within.startswith("caseback") and _exists(within)):
        raise RegistryError(f"there is no package {within!r}: expected one such as 'caseback.localize.inputs'")
    for package in PACKAGES if within is None else (within,):
        _import_all(package)
    if within is None:
        import_modules("techniques")
    listed = [t for t in _registered.values() if within is None or f"{t.function.__module__}.".startswith(f"{within}.")]
    return sorted(listed, key=_in_order)


def expect_role(role: str) -> None:
    """Refuse a role that there is not.

    Raises
    ------
    RegistryError
    """
    if role not in ROLES:
        raise RegistryError(f"there is no role {role!r}. {did_you_mean(role, ROLES, most=len(ROLES))}")


def with_role(role: str, within: str | None = None) -> list[Technique]:
    """List the techniques that play a role, in the order of `techniques`.

    Parameters
    ----------
    role
        One of `ROLES`.
    within
        The package whose modules are imported first; techniques registered elsewhere count too. By default all.

    Raises
    ------
    RegistryError
        For an unknown role.

    Examples
    --------
    >>> [t.name for t in with_role("input attribution", "caseback.localize.inputs")][:1]
    ['localize.inputs.gradient_norm']
    """
    expect_role(role)
    techniques(within)
    import_modules("techniques")
    return sorted((t for t in _registered.values() if t.role == role), key=_in_order)


def _in_order(t: Technique) -> tuple:
    return [_by_number(e) for e in t.entry], t.name


def _expect_role(function: Callable[..., Any], role: str, dims: tuple[str, ...] | None, label: str) -> None:
    """Refuse a function that does not keep the calling convention of its role."""
    if not role:
        return
    if role not in ROLES:
        raise RegistryError(f"{label}: there is no role {role!r}. {did_you_mean(role, ROLES, most=len(ROLES))}")
    kind, signature = ROLES[role], inspect.signature(function)
    parameters = list(signature.parameters.values())
    names = tuple(p.name for p in parameters[: len(kind.called_with)])
    if names != kind.called_with:
        raise RegistryError(f"{label}: its first parameters are {names}; a {role} is called with {kind.called_with}.")
    needed = [p.name for p in parameters[len(kind.called_with) :] if p.default is p.empty and p.name not in kind.needs]
    if kind.closed and needed:
        raise RegistryError(f"{label}: it cannot be called without {needed[0]!r}, which no caller of a {role} gives.")
    given = signature.return_annotation
    if kind.gives and given is signature.empty:
        raise RegistryError(f"{label}: it does not say what it gives: annotate it with -> {kind.gives[0]}.")
    gives = str(getattr(given, "__name__", given)).rpartition(".")[2]
    if kind.gives and gives not in kind.gives:
        raise RegistryError(f"{label}: it gives {gives!r}; a {role} gives {' or '.join(kind.gives)}.")
    if kind.dims and dims not in (None, kind.dims):
        raise RegistryError(f"{label}: dims={dims}; a {role} gives {kind.dims}.")


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _import_all(name: str) -> None:
    # Not pkgutil.walk_packages: it passes over a package that fails to import, and the list would be short.
    module = importlib.import_module(name)
    for below in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}."):
        _import_all(below.name)


def _by_number(entry: str) -> tuple[int, ...]:
    """The Primer's order, and behind it what came after."""
    return tuple(int(part) if part != "B" else 99 for part in entry.split("."))
