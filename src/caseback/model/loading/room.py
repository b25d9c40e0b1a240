"""Whether a model fits into memory, asked before its weights are read: what it needs, what is free, what would fit.

    bytes = sum over stored tensors of count x size of the type that they are read as

Counts are those of the files' headers, or for a hub id those of the model built from its config without weights, so
that nothing is downloaded in vain.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from caseback.errors import LoadError
from caseback.jobs.json_text import parse_json
from caseback.jobs.memory import free_bytes

_SIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_FLOATS = ("F64", "F32", "F16", "BF16")
_NARROW = 2  # bytes of a number in bfloat16


def expect_room(place: str, stored: Mapping[str, int], dtype: Any, device: Any) -> None:
    """Refuse a model that needs more bytes than are free, and say what would fit.

    Parameters
    ----------
    place
        What messages call the model.
    stored
        How many numbers there are of each type, by the names that safetensors has for types.
    dtype
        What floating-point numbers are read as; None or ``"auto"`` keeps the stored type.
    device
        Where the model goes after it has been read into the machine's memory; None leaves it there.

    Raises
    ------
    LoadError
    """
    size = _size_of(dtype)
    floats = sum(count for kind, count in stored.items() if kind in _FLOATS)
    rest = sum(count * _SIZES.get(kind, 1) for kind, count in stored.items() if kind not in _FLOATS)
    own = sum(count * _SIZES[kind] for kind, count in stored.items() if kind in _FLOATS)
    needed = rest + (own if size is None else size * floats)
    for where in dict.fromkeys(("cpu", str(device or "cpu"))):
        free = free_bytes(where)
        if free is None or needed <= free:
            continue
        narrow = rest + _NARROW * floats
        if narrow <= free and narrow < needed:
            fits = f"dtype='bfloat16' (in commands --dtype bfloat16) needs {_words(narrow)} and fits"
        else:
            fits = (
                f"a model of {free // _NARROW / 1e9:.2g} billion parameters in bfloat16 would fit, and "
                "device_map='auto' spreads one over devices, memory and disk"
            )
        raise LoadError(f"{place!r} needs {_words(needed)} of memory, and {_words(free)} are free on {where}: {fits}")


def stored_numbers(folder: Path) -> dict[str, int]:
    """How many numbers of each type a folder's model holds, by its files' headers; nothing where one is unreadable."""
    counts: dict[str, int] = {}
    try:
        for name in _files_of(folder):
            with (folder / name).open("rb") as file:
                header = parse_json(file.read(struct.unpack("<Q", file.read(8))[0]).decode())
            for tensor in (one for key, one in header.items() if key != "__metadata__"):
                kind, shape = str(tensor["dtype"]), torch.Size(tensor["shape"])
                counts[kind] = counts.get(kind, 0) + shape.numel()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, struct.error, MemoryError):
        return {}  # who reads the weights says what is wrong with them
    return counts


def _files_of(folder: Path) -> list[str]:
    """The files that transformers reads; others beside them may hold the same weights again."""
    index, whole = folder / "model.safetensors.index.json", "model.safetensors"
    if os.path.isfile(folder / whole):
        return [whole]
    return (
        sorted(set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if os.path.isfile(index)
        else []
    )


def numbers_of_config(opener: Any, config: Any, *, trust_remote_code: bool = False) -> dict[str, int]:
    """How many numbers a model of a config has, built without weights; nothing where that cannot be."""
    try:
        with torch.device("meta"):
            parameters = opener.from_config(config, trust_remote_code=trust_remote_code).parameters()
    except Exception:  # some classes build tensors whose values they look at
        return {}
    kind = {8: "F64", 4: "F32"}.get(_size_of(getattr(config, "dtype", None)) or 4, "BF16")
    return {kind: sum(one.numel() for one in parameters)}


def _size_of(dtype: Any) -> int | None:
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    return kind.itemsize if isinstance(kind, torch.dtype) else None


def _words(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
