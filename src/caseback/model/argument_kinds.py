"""What an annotation asks of a value: a function that gives it, turned into what it plainly means, or refuses it.

    int                      a whole number, none of a billion or more, ``seed`` none below 0
    float                    a number that is not NaN; finite, unless the default is not
    bool, str, Path          themselves; NumPy's truth values too
    Sequence[int]            numbers, one or many; no mask, no text
    Sequence[str], [float]   texts or numbers, one or many
    tuple, list, Sequence    several, each of its kind; a tuple of so many
    Iterable                 several, at which nobody looks before the function does
    dict, Mapping            a mapping, its keys and its values each of their kind
    Literal, Callable        one of the choices; what can be called
    Tensor, ndarray          numbers, as one of these; jaxtyping's dimensions are left to the function
    Metric                   a metric; a function of logits (row, pos, vocab) is made one
    a class                  an object of it; an ``Edit`` is left to the function
    Annotated[..., Coerced]  what that function makes of it
    ``|``                    whatever one of the kinds takes

NumPy's and torch's integers are integers, an array of them is a list. ``Any``, and what holds it beside other kinds,
may be anything.
"""

from __future__ import annotations

import functools
import math
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass
from numbers import Real
from pathlib import PurePath
from typing import Any, Literal, Union, cast, get_args, get_origin

from caseback.errors import ArgumentError, CasebackError

Check = Callable[[Any], Any]

MOST = 10**9
LARGEST_SEED = 2**63 - 1
_LARGEST_RATE = (2 - 2**-23) * 2.0**127  # in single precision, in which rates and penalties are multiplied
LARGEST_EXACT = 2**53  # of the whole numbers that a float is
# how much is in hand at once: as much as there is memory for
_BUDGETS = {"max_logits", "token_budget", "memory", "copies", "max_numbers"}
_COUNTS = {"rotations", "batch_size", "batch_tokens", "piece", "threads", "workers"}  # of which there is one at least
_NOT_EMPTY = {"layers", "ablations"}
_INFINITE = {"p", "threshold"}  # the maximum norm; a threshold that all or nothing passes
_CLASSES = {
    "Model": "a model, as caseback.load gives it",
    "Metric": "a metric, such as caseback.logit_diff(' Mary', ' John'); or a function of logits",
    "Circuit": "a Circuit",
    "Site": "a Site",
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
    "DataArray": "a labeled result (an xarray.DataArray)",
    "Dataset": "a labeled result (an xarray.Dataset)",
    "slice": "a slice",
}


class Refused(Exception):
    """What was expected instead."""


class Beyond(Refused):
    """The same of a number that is one, but none that can be meant."""


class NotImported:
    """What stands for a class that is imported for type checkers alone: known by its name."""


@dataclass(frozen=True)
class Coerced:
    """Beside an alias, ``Annotated[int | slice, Coerced(as_positions, "positions")]``: who turns a value into one.

    Attributes
    ----------
    by
        A function of ``anatomy.coerce``, called with a value, a name and the error to raise.
    expected
        In words.
    """

    by: Callable[..., Any] | None
    expected: str = ""

    def __call__(self, value: Any) -> Any:
        assert self.by is not None
        try:
            return self.by(value, "it", ArgumentError)
        except (CasebackError, TypeError, ValueError, RuntimeError):
            raise Refused(self.expected) from None


JUDGED_BY_THE_FUNCTION = Coerced(None)


def check_of(hint: Any, name: str, default: Any, *, within: bool = False) -> Check | None:
    """What an annotation asks of a value; None where that may be anything.

    Parameters
    ----------
    hint
        The annotation, as ``typing.get_type_hints`` resolves it.
    name
        The parameter's name: a ``seed`` is a number of its own.
    default
        Its default: where that is infinite, a float may be.
    within
        Whether it is a part of another annotation. One number or text where several are expected is several of one,
        but only where nothing else could be meant.
    """
    inner = functools.partial(check_of, name=name, default=default, within=True)
    origin, parts = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        coerced = next((extra for extra in hint.__metadata__ if isinstance(extra, Coerced)), None)
        if coerced is not None:
            return None if coerced.by is None else coerced
        return check_of(parts[0], name, default, within=within)
    if origin in (Union, types.UnionType):
        return _any_of([check_of(part, name, default, within=within) for part in _one_before_many(parts)])
    if hint is None or hint is type(None):
        return _none
    if origin is Literal:
        return functools.partial(_choice, list(parts))
    if hint is Callable or origin in (Callable, typing.get_origin(Callable[..., Any])):
        return _callable
    if origin is tuple and parts[-1] is not ...:
        return functools.partial(_tuple, [inner(part) for part in parts])
    if origin in _MANY:
        each = None if origin is Iterable else inner(parts[0])
        return functools.partial(_several, origin, parts[0], each, "" if within else name)
    if origin is not None and issubclass(origin, Mapping):
        return functools.partial(_mapping, inner(parts[0]), inner(parts[1]))
    return _check_of_class(origin or hint, name, default)


_MANY = (AbstractSequence, list, tuple, Iterable, set, frozenset, typing.get_origin(typing.Collection))


def _check_of_class(kind: Any, name: str, default: Any) -> Check | None:
    """What is neither made of other kinds nor a word of ``typing``."""
    if kind in (Any, object) or not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return None
    if hasattr(kind, "array_type"):
        return functools.partial(_array, kind.array_type)
    if kind is float:
        infinite = name in _INFINITE or (isinstance(default, float) and math.isinf(default))
        largest = _LARGEST_RATE if name.endswith(("lr", "penalty")) else math.inf
        return functools.partial(_number, infinite=infinite, largest=largest)
    if kind is int:
        return functools.partial(_whole, name)
    if kind.__name__ in ("Tensor", "ndarray"):
        return functools.partial(_array, kind)
    if kind.__name__ == "Metric":
        return _metric
    if kind.__name__ == "Edit":
        return None  # whoever applies edits says what each should be
    simple: dict[Any, Check] = {bool: _flag, str: _text}
    if kind in simple:
        return simple[kind]
    if kind is os.PathLike or issubclass(kind, PurePath):
        return _path
    if issubclass(kind, dict) or kind is Mapping:
        return functools.partial(_mapping, None, None)
    return functools.partial(_of_class, kind)


def _one_before_many(parts: Iterable[Any]) -> list[Any]:
    """Where a number is asked for too, a number is not made a list of one."""
    return sorted(parts, key=lambda part: get_origin(part) not in (None, Literal))


def _any_of(checks: list[Check | None]) -> Check | None:
    every = [check for check in checks if check is not None]
    if len(every) < len(checks):
        return None

    def any_of(value: Any) -> Any:
        expected, beyond = [], False
        for check in every:
            try:
                return check(value)
            except Refused as refused:
                expected.append(str(refused))
                beyond = beyond or isinstance(refused, Beyond)
        listed = dict.fromkeys(sorted(expected, key="None".__eq__))  # None comes last
        raise (Beyond if beyond else Refused)(" or ".join(listed))

    return any_of


def _none(value: Any) -> None:
    if value is not None:
        raise Refused("None")


def _whole(name: str, value: Any) -> int:
    from caseback.model.anatomy.coerce import as_integer  # here: it brings torch

    most = LARGEST_SEED if name == "seed" or name in _BUDGETS else MOST - 1
    try:
        number = as_integer(value, name, ArgumentError)
    except (ArgumentError, ValueError, RuntimeError):
        raise Refused("a whole number") from None
    if not -most <= number <= most or (name == "seed" and number < 0):
        raise Beyond("a whole number from 0 to 2**63 - 1" if name == "seed" else "a number below a billion")
    if name in _COUNTS and number < 1:
        raise Beyond("a whole number from 1")
    return number


def _number(value: Any, *, infinite: bool = False, largest: float = math.inf) -> Any:
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise Refused("a number")
    try:
        as_float = float(value)
    except OverflowError:
        raise Beyond("a finite number") from None
    if math.isnan(as_float) or (math.isinf(as_float) and not infinite):
        raise Beyond("a number, not NaN" if infinite else "a finite number")
    if abs(as_float) > largest:
        raise Beyond("a number that single precision holds")
    return value if abs(as_float) < LARGEST_EXACT else as_float


def _flag(value: Any) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):
        raise Refused("True or False")
    return bool(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Refused("a text")
    return value


def _path(value: Any) -> Any:
    if not isinstance(value, os.PathLike) or not isinstance(text := os.fspath(value), str) or "\0" in text:
        raise Refused("a pathlib.Path" if isinstance(value, str) else "a path")
    return value


def _callable(value: Any) -> Any:
    if not callable(value):
        raise Refused("a function")
    return value


def _choice(choices: list[Any], value: Any) -> Any:
    if not isinstance(value, str | int) or isinstance(value, bool) or value not in choices:
        raise (Beyond if isinstance(value, str) else Refused)(" or ".join(map(repr, choices)))
    return value


def _numbers(value: Any) -> Any:
    """Whole numbers, one or many."""
    from caseback.model.anatomy.coerce import as_indices

    if type(value) is range or (isinstance(value, list | tuple) and all(type(one) is int for one in value)):
        each = value
    else:
        try:
            each = as_indices(value, "it", ArgumentError)
        except (ArgumentError, TypeError, ValueError, RuntimeError):
            raise Refused("whole numbers") from None
    if isinstance(each, int):
        each = [each]
    if each is None or isinstance(each, slice) or any(abs(one) >= MOST for one in each):
        raise Beyond("whole numbers below a billion")
    return each


def _several(origin: Any, kind: Any, check: Check | None, name: str, value: Any) -> Any:
    """Many of a kind, in the container they came in where that is one, a list otherwise.

    Without a name they are part of something else, and one is not many. Nothing is looked at where an ``Iterable`` is
    asked for: that would use it up.
    """
    if kind is int and origin is not Iterable and (name or isinstance(value, Iterable)):
        many = _numbers(value)
    else:
        many = _many(origin, kind, check, bool(name), value)
    if name in _NOT_EMPTY and len(many) == 0:
        raise Beyond("at least one")
    return tuple(many) if origin is tuple else many


def _many(origin: Any, kind: Any, check: Check | None, named: bool, value: Any) -> Any:
    if (
        named
        and origin is not Iterable
        and kind in (str, float)
        and isinstance(value, str | int | float)
        and not isinstance(value, bool)
    ):
        value = [value]
    if isinstance(value, str) and not named and check is not None:
        _each(kind, check, tuple(value))
        return value  # within something else a text is its characters, as Python has it
    if not isinstance(value, list | tuple):
        from caseback.model.anatomy.coerce import are_several  # here alone, since torch comes with it

        if not are_several(value):
            raise Refused("several in a list")
        if check is None and (origin is Iterable or not isinstance(value, Iterator)):
            return value
        try:
            value = list(getattr(value, "tolist", lambda: value)())  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError, RuntimeError):
            raise Refused("several in a list") from None
    return value if check is None else _each(kind, check, value)


def _each(kind: Any, check: Check, value: list[Any] | tuple[Any, ...]) -> list[Any] | tuple[Any, ...]:
    try:
        each = [check(one) for one in value]
    except Refused as refused:
        if kind is str:
            raise Refused("a list of texts") from None
        if kind == str | int:
            raise Refused("a list of texts or token ids") from None
        raise type(refused)(f"several, each {refused}") from None
    if all(new is old for new, old in zip(each, value, strict=True)):
        return value
    return tuple(each) if isinstance(value, tuple) else each


def _tuple(checks: list[Check | None], value: Any) -> tuple[Any, ...]:
    """So many values, each of its own kind."""
    if isinstance(value, str | bytes) or not isinstance(value, AbstractSequence) or len(value) != len(checks):
        raise Refused(f"{len(checks)} values")
    try:
        return tuple(one if check is None else check(one) for check, one in zip(checks, value, strict=True))
    except Refused as refused:
        raise type(refused)(f"{len(checks)} values, one of them {refused}") from None


def _mapping(of_keys: Check | None, of_values: Check | None, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise Refused("a mapping")
    changed = {}
    for key, held in value.items() if of_keys or of_values else ():
        try:
            key_as = of_keys(key) if of_keys else key
        except Refused as refused:
            raise type(refused)(f"a mapping, each of its keys {refused}") from None
        try:
            changed[key_as] = of_values(held) if of_values else held
        except Refused as refused:
            raise type(refused)(f"a mapping, each of its values {refused}") from None
    same = all(new is value.get(key) for key, new in changed.items())
    return value if same else changed


def _of_class(kind: type, value: Any) -> Any:
    by_name = issubclass(kind, NotImported)
    if not (kind.__name__ in {base.__name__ for base in type(value).__mro__} if by_name else isinstance(value, kind)):
        an = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise Refused(_CLASSES.get(kind.__name__, f"{an} {kind.__name__}"))
    return value


def _metric(value: Any) -> Any:
    """A metric, or a function of all logits, which is made one."""
    from caseback.model.running.metrics import Metric, function  # here, since metrics stand behind this door too

    if callable(value) and not isinstance(value, type | Metric):
        return function(cast("Callable[..., Any]", value), pos=None)
    return _of_class(Metric, value)


def _array(kind: type, value: Any) -> Any:
    """Numbers, as a tensor or as an array; how many dimensions they have is left to the function."""
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor) and (value.is_sparse or value.is_meta):
        raise Refused("a tensor that holds its numbers")
    if not isinstance(value, torch.Tensor | np.ndarray | list | tuple):
        raise Refused("a tensor")
    try:
        numbers = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise Refused("a tensor of numbers") from None
    if isinstance(value, kind):
        return value
    return numbers if kind is torch.Tensor else numbers.detach().cpu().numpy()
