"""One digest of whatever a job depends on: numbers, texts, tensors, weights, settings, functions, and nests of these.

    fingerprint(x) = SHA-256 of  kind | length | content,    containers: kind | count | their members, each like that

Every piece says its kind and its length, so that [[A, B], [C]] is not [[A], [B, C]], 1 is not "1", and a tensor is not
its numbers in another dtype. Lists and tuples are the same kind; a mapping has no order. What has no content that
could be compared is refused by name, rather than told apart by where it happens to lie in memory.

A value of torch is met only where torch is imported: commands that need no model do without it.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from caseback.errors import CasebackError

if TYPE_CHECKING:
    from torch import Tensor


def fingerprint(value: Any, name: str = "value") -> str:
    """A digest of a value.

    Parameters
    ----------
    value
        Plain values, tensors, arrays, mappings, sequences, sets, dataclasses, modules (their class, weights and
        buffers), functions (their name, code, and the values that they hold), and objects that say what they are by a
        method ``fingerprint_parts()``.
    name
        What it is called where it is refused.

    Raises
    ------
    CasebackError
        For a lambda, or an object that has no content to compare.

    Examples
    --------
    >>> fingerprint([["a", "b"], ["c"]]) == fingerprint([["a"], ["b", "c"]])
    False
    >>> import torch
    >>> fingerprint({"a": 1, "b": torch.ones(2)}) == fingerprint({"b": torch.ones(2), "a": 1})
    True
    """
    digest = _Digest()
    digest.add(value, name)
    return digest.hexdigest()


def fingerprints(parts: Mapping[str, Any]) -> dict[str, str]:
    """A digest of each named part, so that a refusal can say which one differs.

    Examples
    --------
    >>> one, other = (fingerprints({"prompts": [1, 2], "options": lr}) for lr in (0.1, 0.2))
    >>> [name for name in one if one[name] != other[name]]
    ['options']
    """
    return {name: fingerprint(value, name) for name, value in parts.items()}


def raw_digest(*pieces: bytes | Tensor | np.ndarray) -> str:
    """SHA-256 of bytes one after another, for files whose layout fixes it; ``fingerprint`` for everything else.

    Examples
    --------
    >>> raw_digest(b"ab", b"c") == raw_digest(b"abc")
    True
    """
    import torch

    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece if isinstance(piece, bytes) else _bytes(torch.as_tensor(piece)))
    return digest.hexdigest()


def code_of(function: Callable[..., Any]) -> list[Any]:
    """What a function does, as plain data: its own code and that of the functions that it holds, whatever their values.

    For a function that may hold what changes between two calls of one job, such as a counter.

    Examples
    --------
    >>> def adder(n):
    ...     return lambda x: x + n
    >>> code_of(adder(1)) == code_of(adder(2)) != code_of(abs)
    True
    """
    function = inspect.unwrap(function)
    if not isinstance(function, FunctionType):
        return [type(function).__qualname__, str(getattr(function, "__qualname__", ""))]
    cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    held = [code_of(cell) for cell in cells if isinstance(cell, FunctionType) and cell is not function]
    return [function.__module__, function.__qualname__, _code(function.__code__), held]


def _filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _code(code: CodeType) -> list[Any]:
    constants = [_code(c) if isinstance(c, CodeType) else c for c in code.co_consts]
    return [code.co_code, constants, list(code.co_names), list(code.co_varnames)]


def _bytes(tensor: Tensor) -> Any:
    """A tensor's own bytes, without a copy where it lies on a CPU in one piece."""
    import torch

    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if len(flat) else b""


def _of_torch(value: Any, *names: str) -> bool:
    """Whether it is of one of these classes of torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, tuple(getattr(torch, name) for name in names))


def _is_module(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


class _Digest:
    """A digest on its way, which remembers what it has met: many edits share one run."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.met: dict[int, tuple[Any, bytes]] = {}
        self.inside: list[int] = []

    def hexdigest(self) -> str:
        return self.digest.hexdigest()

    def add(self, value: Any, name: str) -> None:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | PurePath | np.generic):
            self._plain(value)
        elif isinstance(value, slice | range | CodeType) or _of_torch(value, "dtype", "device"):
            self._piece(type(value).__name__, repr(_code(value) if isinstance(value, CodeType) else value))
        elif isinstance(value, enum.Enum | type):
            self._piece("name", f"{getattr(value, '__module__', '')}.{value!s}")
        elif id(value) in self.inside:
            self._piece("round", str(len(self.inside) - self.inside.index(id(value))))
        elif (
            isinstance(value, np.ndarray | FunctionType)
            or _of_torch(value, "Tensor")
            or _is_module(value)
            or hasattr(value, "fingerprint_parts")
        ):
            self._once(value, name)
        else:
            self._nested(value, name)

    def _plain(self, value: Any) -> None:
        value = value.item() if isinstance(value, np.generic) else value
        content = value if isinstance(value, bytes) else str(value) if isinstance(value, PurePath) else value
        kind = "path" if isinstance(value, PurePath) else type(value).__name__
        self._piece(kind, content if isinstance(content, bytes | str) else repr(content))

    def _piece(self, kind: str, content: str | bytes) -> None:
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        self.digest.update(f"{kind}|{len(data)}|".encode())
        self.digest.update(data)

    def _once(self, value: Any, name: str) -> None:
        """What may be large, or met often: its own digest stands for it."""
        if id(value) not in self.met:
            own = _Digest()
            own.met, own.inside = self.met, [*self.inside, id(value)]
            own._content(value, name)
            # the value is kept, so that nothing else is given its id meanwhile
            self.met[id(value)] = value, own.digest.digest()
        self._piece("digest", self.met[id(value)][1])

    def _content(self, value: Any, name: str) -> None:
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                raise CasebackError(f"{name} is an array of Python objects: give numbers")
            self._piece("array", f"{value.dtype.str} {value.shape}")
            self.digest.update(np.ascontiguousarray(value).tobytes())
        elif _of_torch(value, "Tensor"):
            if value.is_meta or str(value.layout) != "torch.strided" or value.is_quantized:
                raise CasebackError(
                    f"{name} is a {value.layout} tensor on {value.device}: expected one with its numbers"
                )
            self._piece("tensor", f"{value.dtype} {tuple(value.shape)}")
            self.digest.update(_bytes(value))
        elif isinstance(value, FunctionType):
            self._function(value, name)
        elif _is_module(value) and not hasattr(value, "fingerprint_parts"):
            self._piece("module", f"{type(value).__module__}.{type(value).__qualname__}")
            self.add(dict(value.named_parameters()), name)
            self.add(dict(value.named_buffers()), name)
        else:
            self._piece("object", f"{type(value).__module__}.{type(value).__qualname__}")
            self.add(cast(Any, value).fingerprint_parts(), name)

    def _function(self, function: FunctionType, name: str) -> None:
        function = inspect.unwrap(function)  # what a door stands before, not the door
        if function.__name__ == "<lambda>":
            raise CasebackError(
                f"{name} is a lambda ({function.__module__}.{function.__qualname__}), which cannot be told from "
                "another one: give a function that has a name"
            )
        self._piece("function", f"{function.__module__}.{function.__qualname__}")
        cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
        held = [function.__defaults__, function.__kwdefaults__, *cells]
        self.add(_code(function.__code__), name)
        self.add(held, f"{name}, in what {function.__qualname__} holds,")

    def _nested(self, value: Any, name: str) -> None:
        self.inside.append(id(value))
        if isinstance(value, Mapping):
            pairs = sorted((fingerprint(key, f"a key of {name}"), key) for key in value)
            self._piece("mapping", str(len(pairs)))
            for digest, key in pairs:
                self._piece("key", digest)
                self.add(value[key], f"{name}[{key!r}]")
        elif isinstance(value, Set):
            self._piece("set", "".join(sorted(fingerprint(item, f"a member of {name}") for item in value)))
        elif isinstance(value, Sequence):
            self._piece("sequence", str(len(value)))
            for i, item in enumerate(value):
                self.add(item, f"{name}[{i}]")
        elif is_dataclass(value):
            self._piece("record", f"{type(value).__module__}.{type(value).__qualname__}")
            self.add({f.name: getattr(value, f.name) for f in fields(value)}, name)
        elif isinstance(value, functools.partial):
            self._piece("partial", "")
            self.add([value.func, value.args, value.keywords], name)
        elif isinstance(value, MethodType):
            self._piece("method", value.__name__)
            self.add([value.__func__, value.__self__], name)
        elif callable(value) and hasattr(value, "__qualname__") and getattr(value, "__module__", None):
            # written in C: its name is all there is to see of it
            self._piece("name", f"{value.__module__}.{value.__qualname__}")
        else:
            raise CasebackError(
                f"{name} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be told from another "
                "one: give numbers, texts, tensors or functions that have a name"
            )
        self.inside.pop()
