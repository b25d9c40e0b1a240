"""Pickles that others publish: read only on request, and then with ``weights_only=True``, which runs no code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from caseback.errors import LoadError
from caseback.jobs.json_text import shortened


def unpickled(path: str | Path) -> Any:
    """What a ``torch.save`` file holds, with no code run; for callers that were asked to read it.

    Raises
    ------
    LoadError
        For no file, another one, or one that holds more than tensors and plain data.
    """
    if not os.path.isfile(path):
        raise LoadError(f"{path} is absent")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the pickle makes it raise
        raise LoadError(f"{path} cannot be read with weights_only=True: {shortened(str(error))}") from None


def read_pickle(path: str | Path, allowed: bool, *, option: str) -> dict[str, Any]:
    """A mapping of names that ``torch.save`` wrote.

    Parameters
    ----------
    path
        The file.
    allowed
        Whether it was asked for.
    option
        How to ask for it, for the refusal: ``"allow_pickle=True"``.

    Raises
    ------
    LoadError
        For a pickle that was not asked for, that cannot be read or that holds no mapping.
    """
    if not allowed and os.path.isfile(path):
        raise LoadError(
            f"{path} is a pickle, which can run code when it is opened: pass {option} if you trust where it is from "
            "(it is then read with weights_only=True)"
        )
    held = unpickled(path)
    if not isinstance(held, dict):
        raise LoadError(f"{path} holds a {type(held).__name__}: expected a mapping of names to tensors")
    return held
