"""Edits of a module's output that follow from its input: a low-rank term beside its matrix, and a codebook.

    SideTerm   y <- y + left^T (right x),       what W + left^T right gives in place of W
    Codebook   y <- values_i where |x - keys_i| <= radii_i, i the nearest key

A module is named by its path: ``model.layers.3.mlp.down_proj.output``. Nothing is written to the model, so an edit is
undone by leaving it out; and the term is computed in float32 at least, where an addition to weights of half precision
would be lost below their last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import EditError
from caseback.model.anatomy.coerce import as_numbers
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.edits import Edit, Where


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


def _put_numbers(edit: Edit, dims: dict[str, int]) -> None:
    for name, n in dims.items():
        label, expected = f"{type(edit).__name__} at {edit.site!r}: {name}", f"a tensor of {n} dimensions"
        numbers = as_numbers(getattr(edit, name), label, EditError, expected)
        if not isinstance(numbers, Tensor) or numbers.ndim != n:
            raise EditError(f"{label} is of {getattr(numbers, 'ndim', 0)} dimensions, expected {n}")
        object.__setattr__(edit, name, numbers)


def _entered(edit: Edit, where: Where, width: int) -> Tensor:
    """What entered the module, refused where it is of another width than the edit reads."""
    if where.entered is None:
        raise EditError(f"{edit.describe()}: what enters {edit.site!r} is not seen here")
    if where.entered.shape[-1] != width:
        raise EditError(f"{edit.describe()} reads vectors of width {width}, and {where.entered.shape[-1]} enter there")
    return where.entered
