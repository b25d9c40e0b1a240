"""One door for what people give as numbers: what plainly means an integer becomes one, all else is refused in words.

NumPy's and torch's integers, ranges and arrays of them are integers and sequences of integers. Truth values are not:
a mask read as numbers would name positions 0 and 1. Nor are fractions, text or bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from operator import index as to_int
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caseback.errors import CasebackError, EditError


def as_integer(value: Any, what: str, error: type[CasebackError] = EditError, expected: str = "a whole number") -> int:
    """An integer, of Python, NumPy or torch.

    Examples
    --------
    >>> as_integer(np.int64(3), "layer")
    3
    >>> as_integer(1.5, "layer")
    Traceback (most recent call last):
    caseback.errors.EditError: layer is 1.5: expected a whole number
    """
    if type(value) is int:
        return value
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool | np.bool_):
        raise error(f"{what} is {value!r}, a truth value: expected {expected}")
    try:
        return to_int(value)
    except TypeError:
        raise error(f"{what} is {_short(value)}: expected {expected}") from None


def as_indices(value: Any, what: str, error: type[CasebackError] = EditError) -> int | list[int] | slice | None:
    """What names a layer, a head or a unit, or several: an integer, integers, a slice; None stays None."""
    if value is None or type(value) is int:
        return value
    if isinstance(value, slice):
        bounds = (value.start, value.stop, value.step)
        if isinstance(value.step, int) and value.step == 0:
            raise error(f"{what} is {value}: expected a step other than 0")
        return slice(*(None if one is None else as_integer(one, f"one {what} of {value}", error) for one in bounds))
    if isinstance(value, Tensor | np.ndarray):
        if value.dtype in (torch.bool, np.dtype(bool)):
            raise error(f"{what} is a mask: expected the numbers where it holds, such as mask.nonzero()")
        if value.ndim == 0:
            return as_integer(value, what, error)
        value = value.tolist()
    if isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Iterable):
        return as_integer(value, what, error)
    each = list(value)
    if any(isinstance(one, bool | np.bool_) for one in each):
        raise error(f"{what} is a mask, {_short(each)}: expected the numbers where it holds")
    return [as_integer(one, f"one {what} of {_short(each)}", error) for one in each]


_FAR = 2**53
PARTS_OF_A_TEXT = {"prompt": slice(None, _FAR), "generated": slice(_FAR, None)}
"""Positions in words: those that were given, and those that decoding adds (a start past the end is the end)."""


def as_positions(value: Any, what: str = "pos", error: type[CasebackError] = EditError) -> Any:
    """What names positions: as ``as_indices``, or in words, or a tensor (batch,) with one position per prompt."""
    if isinstance(value, str) and value in PARTS_OF_A_TEXT:
        return PARTS_OF_A_TEXT[value]
    if isinstance(value, Tensor) and value.ndim == 1 and not (value.dtype == torch.bool or value.is_floating_point()):
        return value
    return as_indices(value, what, error)


def as_tokens(value: Any, what: str, error: type[CasebackError]) -> str | int | list[str | int]:
    """What names a token, text or an id, or one for each prompt."""
    if isinstance(value, str) or type(value) is int:
        return value
    if isinstance(value, Tensor | np.ndarray) and value.ndim > 0:
        named = as_indices(value, what, error)
        assert isinstance(named, list)
        return [*named]
    zero_dimensional = isinstance(value, Tensor | np.ndarray)
    if zero_dimensional or isinstance(value, bytes | bytearray | Mapping) or not isinstance(value, Iterable):
        return as_integer(value, what, error, "text of one token, or its id")
    return [
        one if isinstance(one, str) else as_integer(one, f"one {what}", error, "text of one token, or its id")
        for one in value
    ]


def as_numbers(value: Any, what: str, error: type[CasebackError], expected: str) -> float | Tensor:
    """A number or a tensor of numbers; arrays and lists become tensors, as wide as Python's own numbers."""
    numbers = value
    if isinstance(value, np.ndarray | np.generic | list | tuple):
        try:
            numbers = torch.as_tensor(value, dtype=None if isinstance(value, np.ndarray) else torch.float64)
        except (TypeError, ValueError, RuntimeError):
            numbers = None
    if isinstance(numbers, Tensor) and (numbers.is_sparse or numbers.is_meta):
        raise error(f"{what} is a tensor that does not hold its numbers: expected {expected}")
    if isinstance(numbers, Tensor) and not (numbers.dtype == torch.bool or numbers.is_complex()):
        return numbers
    if isinstance(numbers, int | float) and not isinstance(numbers, bool):
        return numbers
    raise error(f"{what} is a {type(value).__name__}, expected {expected}")


def expect_finite(numbers: float | Tensor, what: str, error: type[CasebackError], *, infinite: bool = False) -> None:
    """Refuse NaN, and infinity where that may not be, in numbers that are at hand.

    Looked at are numbers and tensors of up to 65,536 on the CPU: nothing is read back from a device, and what a
    computation hands on with its graph, or a whole run's activations, pass.

    Examples
    --------
    >>> expect_finite(float("-inf"), "it", CasebackError, infinite=True)
    >>> expect_finite(torch.tensor([1.0, float("nan")]), "it", CasebackError)
    Traceback (most recent call last):
    caseback.errors.CasebackError: it has nan: expected finite numbers
    """
    if isinstance(numbers, Tensor):
        if numbers.device.type != "cpu" or numbers.requires_grad or numbers.numel() > _LOOKED_AT:
            return
        odd = numbers[numbers.isnan() if infinite else ~numbers.isfinite()]
        value = float(odd.flatten()[0]) if len(odd) else 0.0
    else:
        try:
            value = float(numbers)
        except OverflowError:  # a whole number beyond every float
            value = math.inf
    if math.isnan(value) or (math.isinf(value) and not infinite):
        has = f"has {value}" if isinstance(numbers, Tensor) and numbers.ndim else f"is {value}"
        raise error(f"{what} {has}: expected {'numbers, not NaN' if infinite else 'finite numbers'}")


_LOOKED_AT = 2**16


def are_several(value: Any) -> bool:
    """Whether it holds several things in an order: no text, no class, no mapping, no tensor of one number."""
    single = isinstance(value, str | bytes | bytearray | type | Mapping) or getattr(value, "ndim", 1) == 0
    return isinstance(value, Iterable) and not single


def as_device(value: Any, error: type[CasebackError]) -> torch.device:
    """A device that torch knows and this machine has."""
    try:
        device = torch.device(value)
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as refusal:
        raise error(f"device {_short(value)}: {' '.join(str(refusal).split())[:160]}") from None
    return device


def widest(device: torch.device) -> torch.dtype:
    """The widest numbers that a device has: float64, on Apple's float32.

    Examples
    --------
    >>> widest(torch.device("cpu"))
    torch.float64
    """
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except TypeError:
        return torch.float32
    return torch.float64


def widened(x: Tensor) -> Tensor:
    """Numbers as wide as their device has them, for sums and solves: float64, on Apple's float32.

    A sum there has float32's digits; what is summed over batches or prompts goes on on the host, in float64.

    Examples
    --------
    >>> widened(torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.float64
    """
    return x.to(widest(x.device))


def float64_device(device: torch.device) -> torch.device:
    """Where numbers of a device can be float64: there, or on the host.

    Examples
    --------
    >>> float64_device(torch.device("cpu"))
    device(type='cpu')
    """
    return device if widest(device) == torch.float64 else torch.device("cpu")


def in_float64(x: Tensor) -> Tensor:
    """Numbers in float64 whatever their device has: there, or on the host, for what float32 would lose.

    That is solves, eigenvectors and long sums. What comes of them goes back by ``.to(x)``, where it is needed there.

    Examples
    --------
    >>> in_float64(torch.ones(2)).dtype
    torch.float64
    """
    return x.to(float64_device(x.device), torch.float64)


def narrowing(move: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """As torch moves a module's tensors, but that float64 becomes float32 where the device refuses it.

    Examples
    --------
    >>> narrowing(lambda x: x)(torch.ones(2).double()).dtype
    torch.float64
    """

    def moved(x: Tensor) -> Tensor:
        try:
            return move(x)
        except TypeError:
            if x.dtype != torch.float64:
                raise
            return move(x.float())

    return moved


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
