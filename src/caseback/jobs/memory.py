"""How many bytes a device has left, as far as anybody can say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

_MEMINFO = Path("/proc/meminfo")


def free_bytes(device: Any = None) -> int | None:
    """What may still be taken on a device, what torch holds for itself and does not use included.

    Parameters
    ----------
    device
        A ``torch.device`` or its name; the machine's own memory where there is none.

    Returns
    -------
    int
        None for a device that does not tell.

    Examples
    --------
    >>> free_bytes("meta") is None
    True
    """
    where = torch.device("cpu" if device is None else device)
    if where.type == "cpu":
        return _of_the_machine()
    backend: Any = getattr(torch, where.type, None)
    if where.type == "mps" and torch.backends.mps.is_available():
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    if not hasattr(backend, "mem_get_info") or not backend.is_available():
        return None
    free, _ = backend.mem_get_info(where)
    return free + backend.memory_reserved(where) - backend.memory_allocated(where)


def _of_the_machine() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    kilobytes = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((int(number) * 1024 for number in kilobytes), None)
