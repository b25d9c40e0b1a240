"""Edits that are formulas: of the activation, or of what entered the module whose output it is.

    Affine     x <- x + ((x - center) R^T) W + offset,        R, W (k, unit)
    Tilt       x <- |x| (x + v) / |x + v|
    Rotate     x <- x - Px + |Px| (cos a, sin a) in a plane, or Px turned by a
    Fade       x <- x + decay^t v,        t = 0, 1, 2 ... at the positions that are addressed
    SideTerm   y <- y + left^T (right x),         what W + left^T right gives in place of W
    Codebook   y <- values_i where |x - keys_i| <= radii_i,        i the nearest key
    SideMemory y <- y + D x where |D x| >= threshold

Erasure (LEACE: W = -R's partner, center the mean), fine-tuned representations (LoReFT: R = W' - Q, W = Q) and Gaussian
transport (MiMiC: all of d rows) are affine maps. Turning in a plane is angular steering (Vu & Nguyen 2025).

For the last three a module is named by its path, ``model.layers.3.mlp.down_proj.output``, and x is its input. Nothing
is written to the model, so an edit is undone by leaving it out; and a term is computed in float32 at least, where an
addition to weights of half precision would be lost below their last bit.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import EditError
from caseback.model.anatomy.coerce import as_numbers, expect_finite, in_float64
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.edit_values import spread
from caseback.model.running.edits import Add, Edit, Where


@dataclass(frozen=True, eq=False)
class Affine(Edit):
    """Add what ``read`` reads of it, along ``write``.

    ``read`` is (k, unit), ``write`` likewise, the identity where it is left out (then k is unit); ``center`` and
    ``offset`` are (unit,), zero by default. It is computed in float32 at least.
    """

    read: Float[Tensor, "k unit"]
    write: Float[Tensor, "k unit"] | None = None
    center: Float[Tensor, " unit"] | None = None
    offset: Float[Tensor, " unit"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, n_dims in (("read", 2), ("write", 2), ("center", 1), ("offset", 1)):
            value = getattr(self, name)
            if value is None and name != "read":
                continue
            label, expected = f"{type(self).__name__} at {self.site!r}: {name}", f"a tensor of {n_dims} dimensions"
            numbers = as_numbers(value, label, EditError, expected)
            if not isinstance(numbers, Tensor) or numbers.ndim != n_dims:
                raise EditError(f"{label} is of {getattr(numbers, 'ndim', 0)} dimensions, expected {n_dims}")
            expect_finite(numbers, label, EditError)
            object.__setattr__(self, name, numbers)
        if self.write is not None and self.write.shape != self.read.shape:
            raise EditError(
                f"Affine at {self.site!r}: read is {tuple(self.read.shape)} and write {tuple(self.write.shape)}, "
                "expected vectors to write along as those that read"
            )

    def new(self, old: Tensor, where: Where) -> Tensor:
        wide = at_least_float32(old)
        read, write = self._fitting("read", wide), self._fitting("write", wide)
        center, offset = self._fitting("center", wide), self._fitting("offset", wide)
        if write is None and read.shape[0] != read.shape[1]:
            raise EditError(f"{self.describe()}: read has {len(read)} rows, expected {read.shape[1]}, or give write")
        seen = (wide if center is None else wide - center) @ read.T
        out = wide + (seen if write is None else seen @ write)
        return (out if offset is None else out + offset).to(old)

    def _fitting(self, name: str, x: Tensor) -> Any:
        """A part in the precision of ``x``, refused where it is of another width."""
        part = getattr(self, name)
        if part is None:
            return None
        if part.shape[-1] != x.shape[-1]:
            raise EditError(f"{self.describe()}: {name} is of width {part.shape[-1]} at a site of width {x.shape[-1]}")
        return torch.as_tensor(part).to(x)


@dataclass(frozen=True, eq=False)
class Tilt(Edit):
    """Add a value and keep the length that was there: only the direction changes."""

    value: Any

    def new(self, old: Tensor, where: Where) -> Tensor:
        wide = at_least_float32(old)
        moved = wide + spread(self, self.value, wide, where)
        length = moved.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(wide.dtype).tiny)
        return (moved * (wide.norm(dim=-1, keepdim=True) / length)).to(old)


@dataclass(frozen=True, eq=False)
class Fade(Add):
    """Add a value that weakens from position to position by the factor ``decay``.

    The first position that the address names has all of it: with ``pos="generated"``, the first that is generated.
    """

    decay: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        decay = as_numbers(self.decay, f"Fade at {self.site!r}: decay", EditError, "a number from 0 to 1")
        if isinstance(decay, Tensor) or not 0 <= decay <= 1:
            raise EditError(f"Fade at {self.site!r}: decay is {self.decay}, expected a number from 0 to 1")

    def like(self) -> Hashable:
        return None  # each with its own decay

    def new(self, old: Tensor, where: Where) -> Tensor:
        share = torch.as_tensor(self.decay, dtype=torch.float64) ** where.rows.order
        return old + share.to(old).view(-1, *[1] * (old.ndim - 1)) * spread(self, self.value, old, where)


@dataclass(frozen=True, eq=False)
class Rotate(Edit):
    """Turn what lies in a plane, all else and the length staying as they are.

    ``plane`` is two vectors (2, unit), the first being the feature's direction; they are made orthonormal in this
    order. ``angle`` is in degrees, from the first towards the second: the angle at which the part in the plane stands
    afterwards, or with ``by=True`` the one by which it is turned. A tensor (batch, 1, 1) has one for each prompt. With
    ``aligned`` only activations that have some of the first vector are turned.
    """

    plane: Float[Tensor, "two unit"]
    angle: Any
    by: bool = False
    aligned: bool = False
    flags: ClassVar[tuple[str, ...]] = ("by", "aligned")

    def __post_init__(self) -> None:
        super().__post_init__()
        plane = as_numbers(self.plane, f"Rotate at {self.site!r}: plane", EditError, "a tensor (2, unit)")
        if not isinstance(plane, Tensor) or plane.ndim != 2 or len(plane) != 2:
            raise EditError(f"Rotate at {self.site!r}: plane is no tensor of two vectors, expected (2, unit)")
        spanned = torch.linalg.matrix_rank(in_float64(plane)) if bool(plane.isfinite().all()) else 0
        if spanned < 2:
            raise EditError(f"Rotate at {self.site!r}: the two vectors span no plane, expected finite ones apart")
        object.__setattr__(self, "plane", plane)
        label = f"Rotate at {self.site!r}: angle"
        angle = as_numbers(self.angle, label, EditError, "degrees")
        expect_finite(angle, label, EditError)
        object.__setattr__(self, "angle", angle)

    def new(self, old: Tensor, where: Where) -> Tensor:
        wide = at_least_float32(old)
        if self.plane.shape[1] != wide.shape[-1]:
            width = self.plane.shape[1]
            raise EditError(f"{self.describe()}: plane is of width {width} at a site of width {wide.shape[-1]}")
        first, second = self.plane.to(wide)
        first = first / first.norm()
        second = second - (second @ first) * first
        second = second / second.norm()
        a, b = (wide @ first)[..., None], (wide @ second)[..., None]
        turn = spread(self, self.angle, wide, where)[..., :1].deg2rad()
        cos, sin = turn.cos(), turn.sin()
        if self.by:
            new_a, new_b = a * cos - b * sin, b * cos + a * sin
        else:
            length = torch.cat([a, b], -1).norm(dim=-1, keepdim=True)
            new_a, new_b = length * cos, length * sin
        turned = wide + (new_a - a) * first + (new_b - b) * second
        return (torch.where(a > 0, turned, wide) if self.aligned else turned).to(old)


@dataclass(frozen=True, eq=False)
class SideTerm(Edit):
    """Add what a low-rank term beside a module's matrix gives: the sum over k of ``left[k] (right[k] . x)``.

    ``left`` is (k, out) and ``right`` (k, in), x being what enters the module; the module's matrix then acts as
    W + left^T right, in whichever way round the model stores W.
    """

    left: Float[Tensor, "k out"]
    right: Float[Tensor, "k in"]
    of_input: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _put_numbers(self, {"left": 2, "right": 2})
        if len(self.left) != len(self.right):
            raise EditError(
                f"SideTerm at {self.site!r}: left has {len(self.left)} rows and right {len(self.right)}, expected as "
                "many directions that are written as those that are read"
            )

    def new(self, old: Tensor, where: Where) -> Tensor:
        x = _entered(self, where, self.right.shape[1])
        if self.left.shape[1] != where.width or old.shape[-1] != where.width:
            raise EditError(
                f"{self.describe()}: left is of width {self.left.shape[1]}, expected {where.width}, all units of the "
                "module's output"
            )
        wide = at_least_float32(old)
        return (wide + (x.to(wide) @ self.right.to(wide).T) @ self.left.to(wide)).to(old)


@dataclass(frozen=True, eq=False)
class Codebook(Edit):
    """Put a stored value where what enters the module lies within the radius of the nearest stored key.

    ``keys`` is (k, in), ``values`` (k, out), ``radii`` (k,); distances are Euclidean, in float32 at least.
    """

    keys: Float[Tensor, "k in"]
    values: Float[Tensor, "k out"]
    radii: Float[Tensor, " k"]
    of_input: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _put_numbers(self, {"keys": 2, "values": 2, "radii": 1})
        if not len(self.keys) == len(self.values) == len(self.radii) or not len(self.keys):
            raise EditError(
                f"Codebook at {self.site!r}: {len(self.keys)} keys, {len(self.values)} values and {len(self.radii)} "
                "radii, expected as many of each, one at least"
            )

    def new(self, old: Tensor, where: Where) -> Tensor:
        x = at_least_float32(_entered(self, where, self.keys.shape[1]))
        if self.values.shape[1] != old.shape[-1]:
            raise EditError(f"{self.describe()}: values are of width {self.values.shape[1]}, expected {old.shape[-1]}")
        exactly = "donot_use_mm_for_euclid_dist"  # the fast way loses half the digits of a small distance
        distance, nearest = torch.cdist(x, self.keys.to(x), compute_mode=exactly).min(-1)
        inside = distance <= self.radii.to(x)[nearest]
        return torch.where(inside[:, None], self.values.to(old)[nearest], old)


@dataclass(frozen=True, eq=False)
class SideMemory(Edit):
    """Put the output of another matrix, W + ``change``, where the two outputs are ``threshold`` or more apart.

    ``change`` is (out, in), in the orientation of W x, and ``threshold`` (1,); lengths are Euclidean, in float32 at
    least. Elsewhere the module's output stays as it is, bit by bit.
    """

    change: Float[Tensor, "out in"]
    threshold: Float[Tensor, " one"]
    of_input: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _put_numbers(self, {"change": 2, "threshold": 1})
        if len(self.threshold) != 1 or bool(self.threshold < 0):
            raise EditError(
                f"SideMemory at {self.site!r}: threshold is {self.threshold.tolist()}, expected [0 or more]"
            )

    def new(self, old: Tensor, where: Where) -> Tensor:
        x = _entered(self, where, self.change.shape[1])
        if self.change.shape[0] != where.width or old.shape[-1] != where.width:
            raise EditError(
                f"{self.describe()}: change writes a width of {self.change.shape[0]}, expected {where.width}, all "
                "units of the module's output"
            )
        wide = at_least_float32(old)
        apart = x.to(wide) @ self.change.to(wide).T
        is_open = apart.norm(dim=-1, keepdim=True) >= self.threshold.to(wide)
        return torch.where(is_open, (wide + apart).to(old), old)


def _put_numbers(edit: Edit, dims: dict[str, int]) -> None:
    for name, n in dims.items():
        label, expected = f"{type(edit).__name__} at {edit.site!r}: {name}", f"a tensor of {n} dimensions"
        numbers = as_numbers(getattr(edit, name), label, EditError, expected)
        if not isinstance(numbers, Tensor) or numbers.ndim != n:
            raise EditError(f"{label} is of {getattr(numbers, 'ndim', 0)} dimensions, expected {n}")
        expect_finite(numbers, label, EditError)
        object.__setattr__(edit, name, numbers)


def _entered(edit: Edit, where: Where, width: int) -> Tensor:
    """What entered the module, refused where it is of another width than the edit reads."""
    if where.entered is None:
        raise EditError(f"{edit.describe()}: what enters {edit.site!r} is not seen here")
    if where.entered.shape[-1] != width:
        raise EditError(f"{edit.describe()} reads vectors of width {width}, and {where.entered.shape[-1]} enter there")
    return where.entered
