"""One door for the arguments of public functions: each is what its annotation says, or is refused in words.

``@technique`` puts every technique behind it, ``@checked`` any other function. What plainly means the same is turned
into it: NumPy's and torch's integers are integers, an array of them is a list. What an annotation does not say (a
shape, how many layers a model has) is left to the function, as is every type that ``_TESTS`` and ``_CLASSES`` do not
name.

    int                    a whole number, none of a billion or more, ``seed`` none below 0
    float                  a number that is not NaN; finite, unless the default is not
    bool, str, Path        themselves; NumPy's truth values too
    Sequence[int]          numbers, one or many; no mask, no text
    Sequence[str]          texts, one or many
    Literal, Callable      one of the choices; what can be called
    Metric                 a metric; a function of logits (row, pos, vocab) is made one
    Model, Circuit, Lens ...     an object of that class
"""

from __future__ import annotations

import ast
import functools
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, TypeVar, cast

from caseback.errors import ArgumentError, CasebackError, OutOfRange

F = TypeVar("F", bound=Callable[..., Any])
Check = Callable[[str, Any], Any]

MOST = 10**9
LARGEST_SEED = 2**63 - 1
# how much is in hand at once: as much as there is memory for
_BUDGETS = {"max_logits", "token_budget", "memory", "copies", "max_numbers"}
_INFINITE = {"p", "threshold"}  # the maximum norm; a threshold that all or nothing passes
_CLASSES = {
    "Model": "a model, as caseback.load gives it",
    "Metric": "a metric, such as caseback.logit_diff(' Mary', ' John'); or a function of logits",
    "Circuit": "a Circuit",
    "Interchanges": "Interchanges",
    "Lens": "a lens, as the fit_... functions and load_lens give it",
    "AttentionLens": "a lens, as fit_attention_lens gives it",
    "FuturePrompt": "a prompt, as fit_future_prompt gives it",
    "Activating": "a collection, as activating_inputs gives it",
    "Prompts": "prompts of a task, as Task.prompts gives them",
    "Task": "a task, as caseback.tasks.get gives it",
    "Tokens": "tokens, as model.tokens gives them",
    "Run": "a run, as model.run gives it",
    "At": "a place, as At gives it",
    "AffineMap": "a mapping, as fit_mapping gives it",
}


def checked(function: F) -> F:
    """Put a function behind the door; one without annotations that can be checked stays as it is.

    Examples
    --------
    >>> @checked
    ... def first(names: Sequence[str], count: int = 1) -> list[str]:
    ...     return list(names)[:count]
    >>> first(["a", "b"], count=1.5)
    Traceback (most recent call last):
    caseback.errors.ArgumentError: first(count=1.5): expected a whole number
    """
    signature = inspect.signature(function)
    checks = {
        name: check
        for name, parameter in signature.parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and (check := check_of(parameter.annotation, name, parameter.default)) is not None
    }
    if not checks:
        return function
    label = function.__name__

    @functools.wraps(function)
    def behind_the_door(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentError(f"{label}: {error}") from None
        for name, value in bound.arguments.items():
            if name in checks and value is not signature.parameters[name].default:
                bound.arguments[name] = _passed(checks[name], name, value, label)
        return function(*bound.args, **bound.kwargs)

    return cast(F, behind_the_door)


def _passed(check: Check, name: str, value: Any, label: str) -> Any:
    try:
        return check(name, value)
    except _Refused as refused:
        kind = OutOfRange if isinstance(refused, _Beyond) else ArgumentError
        raise kind(f"{label}({name}={_short(value)}): expected {refused}") from None


class _Refused(Exception):
    """What was expected instead."""


class _Beyond(_Refused):
    """The same of a number that is one, but none that can be meant."""


@functools.cache
def _parsed(annotation: str) -> ast.expr | None:
    try:
        return ast.parse(annotation, mode="eval").body
    except SyntaxError:
        return None


def check_of(annotation: Any, name: str, default: Any) -> Check | None:
    """What an annotation asks of a value; None where it cannot be said."""
    if annotation is inspect.Parameter.empty:
        return None
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", None)
    if not isinstance(annotation, str | type) or "[" in str(annotation):
        text = str(annotation) if not isinstance(annotation, str) else annotation
    tree = _parsed(str(text))
    alternatives = None if tree is None else _alternatives(tree)
    if alternatives is None:
        return None
    # one before many: where a number is asked for too, a number is not made a list of one
    alternatives.sort(key=lambda one: isinstance(one, ast.Subscript))
    checks = [_check(one, name, default) for one in alternatives]
    if any(check is None for check in checks):
        return None
    every = cast("list[Check]", checks)

    def any_of(name: str, value: Any) -> Any:
        expected, beyond = [], False
        for check in every:
            try:
                return check(name, value)
            except _Refused as refused:
                expected.append(str(refused))
                beyond = beyond or isinstance(refused, _Beyond)
        listed = dict.fromkeys(sorted(expected, key="None".__eq__))  # None comes last
        raise (_Beyond if beyond else _Refused)(" or ".join(listed))

    return any_of


def _alternatives(tree: ast.expr) -> list[ast.expr] | None:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        left, right = _alternatives(tree.left), _alternatives(tree.right)
        return None if left is None or right is None else [*left, *right]
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        inner = _parsed(tree.value)
        return None if inner is None else _alternatives(inner)
    return [tree]


def _check(tree: ast.expr, name: str, default: Any) -> Check | None:
    """The check of one alternative."""
    if isinstance(tree, ast.Constant) and tree.value is None:
        return _none
    if isinstance(tree, ast.Name | ast.Attribute):
        kind = tree.id if isinstance(tree, ast.Name) else tree.attr
        if kind == "NoneType":
            return _none
        if kind == "float":
            infinite = name in _INFINITE or (isinstance(default, float) and math.isinf(default))
            return functools.partial(_number, infinite=infinite)
        if kind == "Metric":
            return _metric
        if kind in _CLASSES:
            return functools.partial(_of_class, kind)
        return _TESTS.get(kind)
    if isinstance(tree, ast.Subscript) and isinstance(tree.value, ast.Name | ast.Attribute):
        outer = tree.value.id if isinstance(tree.value, ast.Name) else tree.value.attr
        if outer == "Literal":
            items = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
            return functools.partial(_choice, [item.value for item in items if isinstance(item, ast.Constant)])
        if outer in ("Float", "Int", "Bool", "Shaped", "Num"):
            return _tensor
        if outer == "Callable":
            return _callable
        inside = ast.unparse(tree.slice)
        if outer in ("Sequence", "list") and inside == "int":
            return _numbers
        if outer in ("Sequence", "list", "Iterable", "tuple") and inside in ("str", "str, ...", "Any"):
            return functools.partial(_items, str if inside.startswith("str") and outer != "Iterable" else None)
        if outer in ("Sequence", "list") and inside == "str | int":
            return functools.partial(_items, (str, int))
        if outer in ("Sequence", "list") and inside in _CLASSES:
            return functools.partial(_each_of_class, inside)
    return None


def _none(name: str, value: Any) -> None:
    if value is not None:
        raise _Refused("None")


def _whole(name: str, value: Any) -> int:
    from caseback.model.anatomy.coerce import as_integer  # here: it brings torch

    most = LARGEST_SEED if name == "seed" or name in _BUDGETS else MOST - 1
    try:
        number = as_integer(value, name, ArgumentError)
    except (ArgumentError, ValueError, RuntimeError):
        raise _Refused("a whole number") from None
    if not -most <= number <= most or (name == "seed" and number < 0):
        raise _Beyond("a whole number from 0 to 2**63 - 1" if name == "seed" else "a number below a billion")
    return number


def _number(name: str, value: Any, *, infinite: bool = False) -> Any:
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _Refused("a number")
    try:
        as_float = float(value)
    except OverflowError:
        raise _Beyond("a finite number") from None
    if math.isnan(as_float) or (math.isinf(as_float) and not infinite):
        raise _Beyond("a number, not NaN" if infinite else "a finite number")
    return value


def _flag(name: str, value: Any) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):
        raise _Refused("True or False")
    return bool(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _Refused("a text")
    return value


def _path(name: str, value: Any) -> Any:
    if type(value).__name__ == "Path" and not isinstance(value, os.PathLike):
        return value  # one through the heads of a model
    if not isinstance(value, os.PathLike) or not isinstance(text := os.fspath(value), str) or "\0" in text:
        raise _Refused("a path")
    return value


def _callable(name: str, value: Any) -> Any:
    if not callable(value):
        raise _Refused("a function")
    return value


def _choice(choices: list[Any], name: str, value: Any) -> Any:
    if not isinstance(value, str | int) or value not in choices:
        raise _Refused(" or ".join(map(repr, choices)))
    return value


def _numbers(name: str, value: Any) -> Any:
    from caseback.model.anatomy.coerce import as_indices

    if type(value) is range or (isinstance(value, list | tuple) and all(type(one) is int for one in value)):
        each = value
    else:
        try:
            each = as_indices(value, name, ArgumentError)
        except (ArgumentError, TypeError, ValueError, RuntimeError):
            raise _Refused("whole numbers") from None
    if isinstance(each, int):
        each = [each]
    if each is None or isinstance(each, slice) or any(abs(one) >= MOST for one in each):
        raise _Beyond("whole numbers below a billion")
    return each


def _items(kind: Any, name: str, value: Any) -> Any:
    """Many of a kind, or one text, which is a list of one; they are looked at where that uses nothing up."""
    if kind is str and isinstance(value, str):
        return [value]
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable) or isinstance(value, type):
        raise _Refused("several in a list")
    if isinstance(value, list | tuple) and kind is not None and not all(isinstance(one, kind) for one in value):
        raise _Refused("a list of texts" if kind is str else "a list of texts or token ids")
    return value


def _of_class(kind: str, name: str, value: Any) -> Any:
    if kind not in {base.__name__ for base in type(value).__mro__}:
        raise _Refused(_CLASSES[kind])
    return value


def _metric(name: str, value: Any) -> Any:
    """A metric, or a function of all logits, which is made one."""
    if callable(value) and not isinstance(value, type) and "Metric" not in {b.__name__ for b in type(value).__mro__}:
        from caseback.model.running.metrics import function  # here, since metrics stand behind this door too

        return function(cast(Any, value), pos=None)
    return _of_class("Metric", name, value)


def _each_of_class(kind: str, name: str, value: Any) -> Any:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable) or isinstance(value, type):
        raise _Refused(f"several, each {_CLASSES[kind]}")
    for one in value if isinstance(value, list | tuple) else ():
        _of_class(kind, name, one)
    return value


def _coerced(coerce: str, expected: str, name: str, value: Any) -> Any:
    """What a function of ``anatomy.coerce`` makes of it."""
    from caseback.model.anatomy import coerce as door

    more = (ArgumentError,) if coerce == "as_tokens" else ()
    try:
        return getattr(door, coerce)(value, name, *more)
    except (CasebackError, TypeError, ValueError, RuntimeError):
        raise _Refused(expected) from None


def _tensor(name: str, value: Any) -> Any:
    """A tensor, or what becomes one."""
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        if value.is_sparse or value.is_meta:
            raise _Refused("a tensor that holds its numbers")
        return value
    if not isinstance(value, np.ndarray | list | tuple):
        raise _Refused("a tensor")
    try:
        torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise _Refused("a tensor of numbers") from None
    return value


_NAMED = {
    "Index": functools.partial(_coerced, "as_indices", "a whole number, several, or a slice"),
    "Position": functools.partial(_coerced, "as_positions", "a position, or one per prompt"),
    "Positions": functools.partial(_coerced, "as_positions", "positions, as numbers or a slice"),
    "Target": functools.partial(_coerced, "as_tokens", "a token's text or id, or one for each prompt"),
    "Tensor": _tensor,
    "ndarray": _tensor,
}
_TESTS: Mapping[str, Check] = {
    **_NAMED,
    "int": _whole,
    "bool": _flag,
    "str": _text,
    "Path": _path,
    "PathLike": _path,
    "Callable": _callable,
}


def _short(value: Any) -> str:
    text = " ".join(repr(value).split()) if not callable(value) else f"{getattr(value, '__qualname__', value)!s}"
    return text if len(text) <= 80 else f"{text[:77]}..."
