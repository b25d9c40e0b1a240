"""What is given as representations: ``States``, an array or tensor of several places or of one; or refused in words."""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.states import States
from caseback.errors import CasebackError
from caseback.model.anatomy.coerce import float64_device


def representations(
    x: Any, dims: str = "(site, example, d_model)", what: str = "representations"
) -> Float[Tensor, "site example *d"]:
    """Representations as a tensor of single or double precision; one site may come without its dimension.

    Raises
    ------
    CasebackError
        For another shape, numbers that are not finite or whose squares are none, and a site that never varies.

    Examples
    --------
    >>> representations([[1.0, 2.0], [3.0, 2.0]]).shape
    torch.Size([1, 2, 2])
    """
    data = as_numbers(x, dims, what)
    if not bool(data.isfinite().all()):
        number = int((~data.isfinite()).flatten(1).any(1).nonzero()[0, 0])
        raise CasebackError(f"{what}: site {number} holds numbers that are not finite: leave those examples out")
    largest = data.abs().flatten(1).amax(1)
    info = torch.finfo(data.dtype)
    beyond = (largest > info.max**0.4) | ((largest < info.tiny**0.4) & (largest > 0))
    if bool(beyond.any()):  # their squares are no numbers
        number = int(beyond.nonzero()[0, 0])
        raise CasebackError(
            f"{what}: site {number} holds numbers up to {float(largest[number]):.1g}: expected from "
            f"{info.tiny**0.4:.0g} to {info.max**0.4:.0g}, multiply or divide them all"
        )
    flat = (data == data[:, :1]).flatten(1).all(1)
    if bool(flat.any()):
        number = int(flat.nonzero()[0, 0])
        raise CasebackError(f"{what}: site {number} is the same at every example: nothing can be read from it")
    return data


def as_numbers(x: Any, dims: str, what: str = "representations") -> Float[Tensor, "site example *d"]:
    """The same of numbers that may not be finite."""
    x = x.x if isinstance(x, States) else x.values if isinstance(x, xr.DataArray) else x
    try:
        data = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError):
        raise CasebackError(f"{what} are a {type(x).__name__}: expected {dims}") from None
    rank = dims.count(",") + 1
    data = data[None] if data.ndim == rank - 1 else data
    if data.is_meta or data.layout != torch.strided:
        raise CasebackError(f"{what} are a tensor that does not hold its numbers: expected {dims}")
    if data.ndim != rank or not data.numel():
        raise CasebackError(f"{what} of shape {tuple(data.shape)}: expected {dims}")
    if data.is_complex():
        raise CasebackError(f"{what} are complex numbers: expected real ones, {dims}")
    data = data.detach()
    data = data.to(float64_device(data.device))  # what is fitted to them is summed up and solved in float64
    return data if data.dtype in (torch.float32, torch.float64) else data.float()


def expect_fitting(x: Any, sites: int, d: int) -> None:
    """Refuse representations of other sites or another width than something was fitted to.

    Raises
    ------
    CasebackError
        For these.
    """
    if not isinstance(x, Tensor) or x.ndim < 2 or x.shape[-1] != d or (x.ndim > 2 and len(x) not in (1, sites)):
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise CasebackError(f"representations of shape {shape}: the probe is of {sites} sites and width {d}")
