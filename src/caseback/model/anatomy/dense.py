"""The matrix that a linear module multiplies by, which its ``weight`` need not be.

    y = x W + b

Most modules hold W as a parameter, and it is read as a view. An adapter (LoRA, DoRA, (IA)^3) or a class of a family's
own computes with more than its weight: there W is what the module does to the unit vectors, row by row, and b what it
makes of zero; a module that is not affine is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from caseback.errors import AnatomyError
from caseback.model.anatomy.parameters import parameter

_as_its_weight: dict[type[nn.Module], bool] = {}
"""Classes that were tried, and whether they multiply by their weight."""


@dataclass(frozen=True)
class Projection:
    """One head-wise linear map inside a module: head h is the output rows ``rows[h]`` of ``module``."""

    module: nn.Module
    rows: Int[Tensor, "head d_head"]

    @cached_property
    def spacing(self) -> tuple[int, int] | None:
        """The first row and the rows from one head to the next; None where they are not evenly spaced."""
        n_heads, d_head = self.rows.shape
        first, *_ = heads = self.rows[:, 0].tolist()
        step = heads[1] - first if n_heads > 1 else d_head
        even = [[first + step * h + i for i in range(d_head)] for h in range(n_heads)]
        return (first, step) if self.rows.tolist() == even else None

    @cached_property
    def width(self) -> int:
        """How wide the module's output must be at least."""
        return int(self.rows.max()) + 1

    def weight(self) -> Float[Tensor, "head d_model d_head"]:
        """W per head, so that ``x @ W[h]`` is the projection: a view where heads' rows are evenly spaced."""
        return self.by_head(weight_matrix(self.module)).transpose(0, 1)

    def by_head(self, x: Float[Tensor, "*dims width"]) -> Float[Tensor, "*dims head d_head"]:
        """The numbers of each head in the module's output: a view where heads' rows are evenly spaced."""
        if self.spacing is None:
            return x[..., self.rows.to(x.device)]
        (first, step), (*outer, across) = self.spacing, x.stride()
        size, strides = (*x.shape[:-1], *self.rows.shape), (*outer, step * across, across)
        return x.as_strided(size, strides, x.storage_offset() + first * across)

    def bias(self) -> Float[Tensor, "head d_head"] | None:
        bias = bias_of(self.module)
        return None if bias is None else bias[self.rows.to(bias.device)]


def weight_matrix(module: nn.Module) -> Float[Tensor, "d_in d_out"]:
    """A linear module's matrix as ``x @ W`` uses it: a view of its weight wherever that is what it multiplies by.

    Raises
    ------
    AnatomyError
        For a module that has no matrix, whose weights are quantized or nowhere, or that is not affine.
    """
    weight = _weight(module)
    if multiplies_by_its_weight(module):
        return _upright(module, weight)
    return _effect(module)[0]


def bias_of(module: nn.Module) -> Float[Tensor, " d_out"] | None:
    """What a linear module adds; None where it has no bias."""
    own = parameter(module, "bias")
    if multiplies_by_its_weight(module):
        return own
    bias = _effect(module)[1]
    return None if own is None and not bias.any() else bias


def weight_shape(module: nn.Module) -> tuple[int, int]:
    """(d_in, d_out) of a linear module, also where its weights are offloaded."""
    core = _core(module)
    weight: Any = getattr(core, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_meta:
        weight = _weight(core)
    if weight.ndim != 2:
        raise AnatomyError(f"{type(module).__name__} has weights of shape {tuple(weight.shape)}: expected a matrix")
    rows, columns = weight.shape
    return (rows, columns) if _is_conv1d(core) else (columns, rows)


def multiplies_by_its_weight(module: nn.Module) -> bool:
    """Whether ``module.weight``, and nothing else, is what a linear module multiplies by."""
    if type(module).forward is nn.Linear.forward or _is_conv1d(module):
        return True
    if hasattr(module, "base_layer"):
        return False
    kind = type(module)
    if kind not in _as_its_weight:
        _as_its_weight[kind] = _agrees(module, _upright(module, _weight(module)), parameter(module, "bias"))
    return _as_its_weight[kind]


def _core(module: nn.Module) -> nn.Module:
    """The module that an adapter wraps."""
    inner = getattr(module, "base_layer", None)
    return _core(inner) if isinstance(inner, nn.Module) else module


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D"


def _upright(module: nn.Module, weight: Tensor) -> Tensor:
    return weight if _is_conv1d(module) else weight.T


def _weight(module: nn.Module) -> Tensor:
    """A module's weight, refused by name where it is no tensor of plain numbers."""
    name = f"{type(module).__module__.partition('.')[0]}'s {type(module).__name__}"
    weight = parameter(module, "weight")
    if hasattr(module, "qweight") or isinstance(weight, Tensor) and not _plain_numbers(weight):
        raise AnatomyError(f"{name} is quantized, so its matrix cannot be read: load the model without quantization")
    if not isinstance(weight, Tensor):
        raise AnatomyError(f"{type(module).__name__} has no weight matrix: expected a linear module")
    return weight


def _plain_numbers(weight: Tensor) -> bool:
    kinds = (Tensor, nn.Parameter)
    return type(weight) in kinds and weight.is_floating_point() and weight.element_size() > 1


@torch.no_grad()
def _agrees(module: nn.Module, matrix: Tensor, bias: Tensor | None) -> bool:
    """Whether the module does on two rows what a matrix and a bias do."""
    rows = torch.linspace(-1, 1, 2 * len(matrix), device=matrix.device).sin().view(2, -1).to(matrix)
    given = _output(module, rows)
    expected = rows @ matrix if bias is None else rows @ matrix + bias
    size = max(float(expected.abs().max()), 1e-6)
    return given.shape == expected.shape and float((given - expected).abs().max()) <= _ROUNDING[matrix.dtype] * size


_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def _output(module: nn.Module, x: Tensor) -> Tensor:
    out: Any = module.forward(x)  # not a call: hooks are the pass's
    return out[0] if isinstance(out, tuple) else out


@torch.no_grad()
def _effect(module: nn.Module) -> tuple[Tensor, Tensor]:
    """W and b of an affine module, from what it makes of the unit vectors and of zero."""
    if any(isinstance(m, nn.Dropout) and m.p > 0 and m.training for m in module.modules()):
        raise AnatomyError(f"{type(module).__name__} is in training mode, where its dropout is random: call eval()")
    weight = _weight(_core(module))
    units = torch.eye(weight_shape(module)[0], dtype=weight.dtype, device=weight.device)
    bias = _output(module, torch.zeros_like(units[:1]))[0]
    matrix = _output(module, units) - bias
    if not _agrees(module, matrix, bias):
        raise AnatomyError(
            f"{type(module).__name__} is not linear in what it reads, so it has no matrix: merge its adapter into the "
            "weights (merge_and_unload), or load the model without it"
        )
    return matrix, bias
