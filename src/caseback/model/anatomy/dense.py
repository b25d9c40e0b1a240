"""The matrix that a linear module multiplies by, which its ``weight`` need not be.

    y = x W + b

Most modules hold W as a parameter, and it is read as a view. An adapter (LoRA, DoRA, (IA)^3) or a class of a family's
own computes with more than its weight, and quantization (bitsandbytes, GPTQ, AWQ, torchao, ...) keeps W as codes: there
W is what the module does to the unit vectors, row by row, and b what it makes of zero, so that it has exactly the
numbers that the module multiplies by; a module that is not affine is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from caseback.errors import AnatomyError
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.parameters import (
    device_of,
    expect_own_numbers,
    expect_undivided,
    holds_codes,
    is_plain,
    parameter,
)

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
        For a module that has no matrix, whose weights are nowhere or divided among processes, or that is not affine.
    """
    if multiplies_by_its_weight(module):
        return _upright(module, _weight(module))
    return _effect(module)[0]


def wide_matrix(module: nn.Module, device: torch.device) -> Float[Tensor, "d_in d_out"]:
    """The same in float32 at least, on one device whatever the layer: a copy only where it is not so already."""
    return at_least_float32(weight_matrix(module).detach()).to(device)


def wide_bias(module: nn.Module, device: torch.device) -> Float[Tensor, " d_out"] | None:
    """What a linear module adds, so too; None where it has no bias."""
    bias = bias_of(module)
    return None if bias is None else at_least_float32(bias.detach()).to(device)


def stored_matrix(module: nn.Module, what: str) -> Float[Tensor, "d_in d_out"]:
    """The same, to be written into: always a view of the weight.

    Parameters
    ----------
    module
        The linear module.
    what
        What changes it, for the message.

    Raises
    ------
    AnatomyError
        For quantized or offloaded weights, and a module that multiplies by more than its weight.
    """
    expect_own_numbers(module, what)
    if not multiplies_by_its_weight(module):
        raise AnatomyError(
            f"{what} changes weights, and {type(module).__name__} multiplies by more than its own: merge its adapter "
            "into the weights (merge_and_unload), or load the model without it"
        )
    return weight_matrix(module)


def bias_of(module: nn.Module) -> Float[Tensor, " d_out"] | None:
    """What a linear module adds; None where it has no bias."""
    own = parameter(module, "bias")
    if multiplies_by_its_weight(module):
        return own
    bias = _effect(module)[1]
    return None if own is None and not bias.any() else bias


def weight_shape(module: nn.Module) -> tuple[int, int]:
    """(d_in, d_out) of a linear module, also where its weights are offloaded or quantized."""
    core = _core(module)
    if is_packed(core):
        return _declared_shape(core)
    weight: Any = getattr(core, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_meta:
        weight = _weight(core)
    if weight.ndim != 2:
        raise AnatomyError(f"{type(module).__name__} has weights of shape {tuple(weight.shape)}: expected a matrix")
    rows, columns = weight.shape
    return (rows, columns) if _is_conv1d(core) else (columns, rows)


def multiplies_by_its_weight(module: nn.Module) -> bool:
    """Whether ``module.weight``, and nothing else, is what a linear module multiplies by."""
    if is_packed(module):
        return False
    if type(module).forward is nn.Linear.forward or _is_conv1d(module):
        return True
    if hasattr(module, "base_layer"):
        return False
    kind = type(module)
    if kind not in _as_its_weight:
        _as_its_weight[kind] = _agrees(module, _upright(module, _weight(module)), parameter(module, "bias"))
    return _as_its_weight[kind]


def expect_gradient(module: nn.Module) -> None:
    """Refuse a quantized module whose kernel keeps no gradient, or another than that of what it computes.

    For an affine y(x) and s = (y(x) - y(0)) . y(x), held at the first factor, ds/dx . x = |y(x) - y(0)|^2.
    """
    rows = torch.linspace(-1, 1, 2 * weight_shape(module)[0], device=device_of(module)).sin()
    with torch.enable_grad():
        x = rows.view(2, -1).to(computes_in(module)).requires_grad_()
        y = _output(module, x)
        change = (y - _output(module, torch.zeros_like(x))).detach()
        held = y.requires_grad
        slope = torch.autograd.grad((y * change).sum(), x, allow_unused=True)[0] if held else None
    size = float(in_float64(change).square().sum())
    if slope is None or abs(float(in_float64(slope * x.detach()).sum()) - size) > _EIGHT_BITS * size:
        raise AnatomyError(
            f"{_called(module)} multiplies by a kernel that keeps no gradient on {device_of(module).type}: load the "
            "model without quantization where gradients are asked for"
        )


def _core(module: nn.Module) -> nn.Module:
    """The module that an adapter wraps."""
    inner = getattr(module, "base_layer", None)
    return _core(inner) if isinstance(inner, nn.Module) else module


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D"


def _upright(module: nn.Module, weight: Tensor) -> Tensor:
    return weight if _is_conv1d(module) else weight.T


def is_packed(module: nn.Module) -> bool:
    """Whether a linear module's weights are quantized: codes, with scales that its forward multiplies in."""
    if holds_codes(module):
        return True
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or is_plain(weight):
        return False
    expect_undivided(weight, "weight", module)
    return True


_SIDES = (("in_features", "out_features"), ("infeatures", "outfeatures"))
"""What classes of quantized linear maps call their sizes."""


def _declared_shape(module: nn.Module) -> tuple[int, int]:
    for into, out in _SIDES:
        sizes = getattr(module, into, None), getattr(module, out, None)
        if all(isinstance(size, int) for size in sizes):
            return sizes  # pyright: ignore[reportReturnType]
    raise AnatomyError(
        f"{_called(module)} is quantized and does not say its in_features and out_features, so its matrix cannot be "
        "read: load the model without quantization"
    )


def _called(module: nn.Module) -> str:
    return f"{type(module).__module__.partition('.')[0]}'s {type(module).__name__}"


def _weight(module: nn.Module) -> Tensor:
    """A module's weight, refused by name where it has none."""
    weight = parameter(module, "weight")
    if not isinstance(weight, Tensor):
        raise AnatomyError(f"{type(module).__name__} has no weight matrix: expected a linear module")
    return weight


def computes_in(module: nn.Module) -> torch.dtype:
    """The numbers that a module is given: its weight's, or beside codes those of its scales and bias."""
    module = _core(module)
    if not is_packed(module):
        return _weight(module).dtype
    beside = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return next((x.dtype for x in beside if x.is_floating_point() and x.element_size() > 1), torch.float32)


@torch.no_grad()
def _agrees(module: nn.Module, matrix: Tensor, bias: Tensor | None, rounding: float | None = None) -> bool:
    """Whether the module does on two rows what a matrix and a bias do."""
    rows = torch.linspace(-1, 1, 2 * len(matrix), device=matrix.device).sin().view(2, -1).to(matrix)
    given = _output(module, rows)
    expected = rows @ matrix if bias is None else rows @ matrix + bias
    size = max(float(expected.abs().max()), 1e-6)
    rounding = _ROUNDING[matrix.dtype] if rounding is None else rounding
    return given.shape == expected.shape and float((given - expected).abs().max()) <= rounding * size


_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_EIGHT_BITS = 5e-2
"""Quantized modules may round what they read, too: to eight bits a row."""


def _output(module: nn.Module, x: Tensor) -> Tensor:
    out: Any = module.forward(x)  # not a call: hooks are the pass's
    return out[0] if isinstance(out, tuple) else out


@torch.no_grad()
def _effect(module: nn.Module) -> tuple[Tensor, Tensor]:
    """W and b of an affine module, from what it makes of the unit vectors and of zero."""
    if any(isinstance(m, nn.Dropout) and m.p > 0 and m.training for m in module.modules()):
        raise AnatomyError(f"{type(module).__name__} is in training mode, where its dropout is random: call eval()")
    core = _core(module)
    units = torch.eye(weight_shape(module)[0], dtype=computes_in(module), device=device_of(core))
    bias = _output(module, torch.zeros_like(units[:1]))[0]
    matrix = _output(module, units) - bias
    packed = is_packed(core)
    if not _agrees(module, matrix, bias, _EIGHT_BITS if packed else None):
        todo = (
            "load it without quantization"
            if packed
            else "merge its adapter into the weights (merge_and_unload), or load the model without it"
        )
        raise AnatomyError(f"{_called(module)} is not linear in what it reads, so it has no matrix: {todo}")
    return matrix, bias
