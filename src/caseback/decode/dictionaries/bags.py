"""Sums over bags of rows and dot products of rows: torch's own on a CPU, Triton kernels on a GPU.

    sums    out_b = sum_{e in bag b} v_e r_{i(e)}
    dots    out_e = g_{b(e)} . r_{i(e)}

Decoding is the first, of a token's features; its gradients are the second, for the codes, and the first once more, for
the decoder's rows, whose bags are a feature's tokens: entries are sorted by feature and each feature's are added by one
program. Atomic additions need no sort, and give other last bits at every call. The encoder's gradients are such sums
too, and share that sort.

Kernels are used for tensors on a GPU (CUDA or ROCm) where Triton, which torch's wheels for Linux bring, is there and
can build them; with ``CASEBACK_TRITON=0`` in the environment they are not. Both ways are equal to rounding.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from caseback.jobs.warned import warn

SWITCH = "CASEBACK_TRITON"
"""The environment's variable: ``0`` turns the kernels off."""
EARLIEST = (7, 0)
"""The compute capability of the earliest NVIDIA GPUs that Triton builds for."""


def uses_triton(like: Tensor) -> bool:
    """Whether tensors as this one are summed by Triton's kernels."""
    return like.is_cuda and os.environ.get(SWITCH, "1") != "0" and _why_not(like.device) is None


@cache
def _why_not(device: torch.device) -> str | None:
    """Why kernels cannot run on a device; None where they can. They are built once to see it."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < EARLIEST:
        return "the GPU is older than those that Triton builds for"
    try:
        one, zero = torch.ones(1, 1, device=device), torch.zeros(1, dtype=torch.int64, device=device)
        _kernels().sums(one[0], one, zero, zero)
        _kernels().dots(one, one, zero, zero)
    except Exception as error:  # of a compiler that is not there, a driver, another version
        why = str(error).strip().splitlines()
        warn(
            f"Triton is installed but builds no kernels here ({type(error).__name__}: {why[0] if why else ''}): "
            f"dictionaries use torch's own sums. {SWITCH}=0 says so without a try",
            stacklevel=2,
        )
        return str(error)
    return None


def _kernels() -> Any:
    from caseback.decode.dictionaries import triton_bags

    return triton_bags


def sums(
    values: Float[Tensor, " entry"],
    rows: Float[Tensor, "row d"],
    index: Int[Tensor, " entry"],
    starts: Int[Tensor, " bag"],
) -> Float[Tensor, "bag d"]:
    """Each bag's sum of rows, times values; without a gradient where kernels are used.

    Parameters
    ----------
    values, index
        Of each entry, and the row that it takes; a bag's entries stand side by side.
    rows
        Of the values' dtype.
    starts
        Where each bag's entries start.

    Examples
    --------
    >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> sums(torch.tensor([2.0, 3.0, 5.0]), rows, torch.tensor([0, 1, 1]), torch.tensor([0, 2, 2])).tolist()
    [[2.0, 3.0], [0.0, 0.0], [0.0, 5.0]]
    """
    if uses_triton(rows):
        return _kernels().sums(values, rows, index, starts)
    return embedding_bag(index, rows, starts, mode="sum", per_sample_weights=values)


def dots(
    left: Float[Tensor, "bag d"],
    right: Float[Tensor, "row d"],
    left_index: Int[Tensor, " entry"],
    right_index: Int[Tensor, " entry"],
) -> Float[Tensor, " entry"]:
    """Each entry's dot product of a row on the left and one on the right.

    Examples
    --------
    >>> rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> dots(rows, rows, torch.tensor([0, 0]), torch.tensor([0, 1])).tolist()
    [5.0, 11.0]
    """
    if uses_triton(right):
        return _kernels().dots(left, right, left_index, right_index)
    return (left[left_index] * right[right_index]).sum(-1)
