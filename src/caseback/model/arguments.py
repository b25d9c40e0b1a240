"""One door for the arguments of public functions: each is what its annotation says, or is refused in words.

``@technique`` puts every technique behind it, ``@checked`` any other function or the constructor of a class that users
build. What an annotation asks for is said in ``argument_kinds``. What an annotation does not say (a range, how many
layers a model has) is left to the function.

Not pydantic's ``validate_call`` or beartype: every leaf (whole numbers of NumPy and torch, NaN, masks, tensors) would
need a validator of ours there too, and what they save is the walk through containers and unions, a page of code.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any, TypeVar, cast

from caseback.errors import ArgumentError, OutOfRange
from caseback.model.argument_kinds import Beyond, Check, NotImported, Refused, check_of

F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    """Put a function, or the constructor of a class, behind the door.

    Annotations are read at the first call, when all that they name is there.

    Examples
    --------
    >>> from collections.abc import Sequence
    >>> @checked
    ... def first(names: Sequence[str], count: int = 1) -> list[str]:
    ...     return list(names)[:count]
    >>> first(["a", "b"], count=1.5)
    Traceback (most recent call last):
    caseback.errors.ArgumentError: first(count=1.5): expected a whole number
    """
    if isinstance(function, type):
        function.__init__ = _behind_the_door(function.__init__, function.__name__)
        return cast(F, function)
    return cast(F, _behind_the_door(function, function.__name__))


def _behind_the_door(function: Callable[..., Any], label: str) -> Callable[..., Any]:
    if not function.__annotations__:
        return function
    signature = inspect.signature(function)
    checks: dict[str, Check] | None = None

    @functools.wraps(function)
    def behind_the_door(*args: Any, **kwargs: Any) -> Any:
        nonlocal checks
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentError(f"{label}: {error}{_expected(signature, str(error))}") from None
        if checks is None:
            checks = _checks(function, signature)
        for name, value in bound.arguments.items():
            if name in checks and value is not signature.parameters[name].default:
                bound.arguments[name] = _passed(checks[name], value, f"{label}({name}=")
        return function(*bound.args, **bound.kwargs)

    return behind_the_door


def _checks(function: Callable[..., Any], signature: inspect.Signature) -> dict[str, Check]:
    """What each parameter is checked by; none for what may be anything."""
    hints = typing.get_type_hints(function, localns=_Names(inspect.unwrap(function).__globals__), include_extras=True)
    checks = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) or name not in hints:
            continue
        check = check_of(hints[name], name, parameter.default)
        if check is not None:
            checks[name] = check
    return checks


class _Names(dict[str, Any]):
    """The names that annotations use; one imported for type checkers alone stands for a class of that name."""

    def __missing__(self, name: str) -> Any:
        return vars(builtins)[name] if hasattr(builtins, name) else type(name, (NotImported,), {})


def _expected(signature: inspect.Signature, error: str) -> str:
    """What a call with too much by position could have had."""
    if "too many positional" not in error:
        return ""
    each = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    placed = ", ".join(p.name for p in each if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    named = ", ".join(f"{p.name}=" for p in each if p.kind == p.KEYWORD_ONLY)
    return f", expected {placed or 'none'}" + (f"; by name {named}" if named else "")


def _passed(check: Check, value: Any, call: str) -> Any:
    try:
        return check(value)
    except Refused as refused:
        kind = OutOfRange if isinstance(refused, Beyond) else ArgumentError
        # what a class says of itself where something else is asked for
        hint = getattr(type(value), "argument_hint", "")
        raise kind(f"{call}{_short(value)}): expected {refused}{hint}") from None


def _short(value: Any) -> str:
    text = " ".join(repr(value).split()) if not callable(value) else f"{getattr(value, '__qualname__', value)!s}"
    return text if len(text) <= 80 else f"{text[:77]}..."
