"""From the tensors of a file to a dictionary, and from a dictionary to those of a file: what all layouts share.

    scale s        z = W_enc (s x - b_dec) + b_enc            =  (s W_enc) (x - b_dec / s) + b_enc
                   x^ = (a W_dec + b_dec) / s                 =  a (W_dec / s) + b_dec / s
    rows' norms n  z n  =  (n W_enc) (x - b_dec) + n b_enc     x^ = (z n) (W_dec / n) + b_dec
    not centered   W_enc (x - b_dec) + b_enc                  =  W_enc x + (b_enc - W_enc b_dec)

Folds are computed in float64 and stored in the file's precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from caseback.artifacts.artifact import Artifact
from caseback.decode.dictionaries.architectures.folding import folded
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.facts import Facts
from caseback.decode.dictionaries.formats.saved_dictionaries import with_weights
from caseback.errors import CasebackError, LoadError

SHAPES = {"W_enc": "feature d_in", "b_enc": "feature", "W_dec": "feature d_out", "b_dec": "d_out"}


def expect(tensors: Mapping[str, Tensor], layout: Mapping[str, str], where: str, **sizes: int) -> None:
    """Refuse tensors that are not those of a layout, or that hold what is no number.

    Parameters
    ----------
    tensors
        By their names in the file.
    layout
        For each its dimensions, by name; one with ``?`` behind its name may be absent.
    where
        For messages.
    **sizes
        Dimensions that are known.

    Raises
    ------
    LoadError
        In one line: what is missing, unknown, of another shape or no number.
    """
    asked = {name.removesuffix("?"): dims for name, dims in layout.items() if name[-1] != "?" or name[:-1] in tensors}
    Artifact(tensors, path=Path(where)).expect(asked, **sizes)
    for name, tensor in tensors.items():
        dead = "threshold" in name  # a feature that never fires may have an infinite one
        wrong = tensor.isnan() if dead else ~tensor.isfinite()
        if bool(wrong.any()):
            raise LoadError(f"{where}: the tensor {name!r} has {int(wrong.sum())} entries that are no numbers")
        if not tensor.numel():
            raise LoadError(f"{where}: the tensor {name!r} is empty")


def build(
    kind: type[Dictionary], tensors: Mapping[str, Tensor], facts: Facts, where: str, **options: Any
) -> Dictionary:
    """A dictionary from weights in our orientation and under our names.

    Parameters
    ----------
    kind, options
        The architecture, and its constructor's further arguments.
    tensors
        ``W_enc`` (feature, d_in), ``W_dec`` (feature, d_out), ``b_enc``, ``b_dec``, and what else there is.
    facts
        What the weights do not tell.
    where
        For messages.
    """
    reads = tensors.get("W_enc", tensors["W_dec"])  # matching pursuit reads what it writes
    d_in, d_out = reads.shape[1], tensors["W_dec"].shape[1]
    try:
        empty = kind(
            d_in,
            len(reads),
            d_out,
            facts=facts,
            skip="W_skip" in tensors,
            dtype=tensors["W_dec"].dtype,
            seed=None,
            **options,
        )
    except CasebackError as error:
        raise LoadError(f"{where} holds no dictionary that can be: {error}") from None
    if empty.facts.centered != facts.centered:
        raise LoadError(f"{where}: b_dec is subtracted from states of width {d_in}, and has {d_out} entries")
    return with_weights(empty, {**empty.state_dict(), **tensors}, where)


def scaled(tensors: Mapping[str, Tensor], by: float, out_by: float | None = None) -> dict[str, Tensor]:
    """Weights that take states as they are, from weights that take them times ``by`` and write them times ``out_by``.

    Codes stay as they are.
    """
    out_by = by if out_by is None else out_by
    factors = {"W_enc": by, "W_dec": 1 / out_by, "b_dec": 1 / out_by}
    return {name: _times(value, factors.get(name, 1.0)) for name, value in tensors.items()}


def unit_rows(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights whose rows of ``W_dec`` have norm 1 and whose codes are times what that norm was."""
    norms = tensors["W_dec"].double().norm(dim=1)
    if not bool((norms > 0).all()):
        raise LoadError(
            f"{int((norms == 0).sum())} rows of W_dec are 0, so codes cannot be given in units of their norms"
        )
    shaped = {"W_enc": norms[:, None], "b_enc": norms, "W_dec": 1 / norms[:, None]}
    return {name: _times(value, shaped.get(name, 1.0)) for name, value in tensors.items()}


def recentered(tensors: Mapping[str, Tensor], centered: bool) -> dict[str, Tensor]:
    """The same function with ``b_dec`` subtracted from what is read, or not."""
    moved = tensors["W_enc"].double() @ tensors["b_dec"].double()
    b_enc = tensors["b_enc"].double() + (moved if centered else -moved)
    return {**tensors, "b_enc": b_enc.to(tensors["b_enc"].dtype)}


def plain(dictionary: Dictionary) -> tuple[dict[str, Tensor], Facts]:
    """The weights of a dictionary for a file that knows no scale, and its facts without one."""
    by_token = dictionary.facts.normalization in ("layer_norm", "unit_norm")
    one = dictionary if by_token else folded(dictionary)
    tensors = {name: value.detach().cpu() for name, value in one.state_dict().items()}
    return {name: value for name, value in tensors.items() if name not in ("scale", "out_scale", "batches")}, one.facts


def _times(value: Tensor, factor: Tensor | float) -> Tensor:
    if isinstance(factor, float) and factor == 1.0:
        return value
    return (value.double() * factor).to(value.dtype)


def widened(value: Any) -> Any:
    """A tensor in half precision as float32; anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16) else value
