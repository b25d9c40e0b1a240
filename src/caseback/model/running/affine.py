"""An affine edit: what is read of an activation by some vectors is written back into it along others.

    x <- x + ((x - center) R^T) W + offset,        R, W (k, unit)

Erasure (LEACE: W = -R's partner, center the mean), fine-tuned representations (LoReFT: R = W' - Q, W = Q) and Gaussian
transport (MiMiC: all of d rows) are such maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import EditError
from caseback.model.anatomy.coerce import as_numbers
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.edits import Edit, Where


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
