"""Bins of numbers of either sign, of like width on a logarithmic scale, whose edges do not depend on the data.

    ... -2^(e+1) | -2^e | (about 0) | 2^e | ...       2^s bins an octave, from 2^low on; the outermost have no end

A bin follows from the bits of a float32 number: its exponent and the s highest bits of its mantissa.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.model.anatomy.coerce import widest


@dataclass(frozen=True)
class MagnitudeBins:
    """A scale.

    Attributes
    ----------
    low
        Numbers below 2^low in size are in the bin about 0.
    octaves
        From there on; what is larger is in the outermost bins.
    sub
        Bits of the mantissa that a bin keeps: an octave has 2^sub bins.
    """

    low: int
    octaves: int
    sub: int

    @property
    def steps(self) -> int:
        """Bins on either side of the one about 0."""
        return self.octaves << self.sub

    @property
    def n(self) -> int:
        """How many bins there are."""
        return 2 * self.steps + 1

    @property
    def _first(self) -> int:
        return (127 + self.low) << self.sub

    def of(self, values: Float[Tensor, "*any"]) -> Int[Tensor, "*any"]:
        """The bin of each number, counted from the most negative.

        Examples
        --------
        >>> MagnitudeBins(low=0, octaves=2, sub=0).of(torch.tensor([-5.0, -1.0, 0.5, 1.0, 3.0])).tolist()
        [0, 1, 2, 3, 4]
        """
        bits = as_single(values).contiguous().view(torch.int32)
        steps = (bits & 0x7FFFFFFF).bitwise_right_shift_(23 - self.sub).sub_(self._first - 1).clamp_(0, self.steps)
        # -1 of negative numbers, else 0: (s ^ -1) + 1 = -s
        sign = bits >> 31
        return steps.bitwise_xor_(sign).sub_(sign).add_(self.steps)

    def edges(self) -> Float[Tensor, " edge"]:
        """The edges, from minus to plus infinity: bin b holds what is between edges b and b + 1."""
        codes = torch.arange(self._first, self._first + self.steps, dtype=torch.int32) << (23 - self.sub)
        positive = codes.view(torch.float32)
        ends = torch.tensor([torch.inf])
        return torch.cat([-ends, -positive.flip(0), positive, ends])

    def inner_ends(self) -> Float[Tensor, " bin"]:
        """Of each bin the end that is nearer to 0."""
        edges = self.edges()
        inner = torch.where(edges[:-1].abs() < edges[1:].abs(), edges[:-1], edges[1:])
        inner[len(inner) // 2] = 0
        return inner

    def quantiles(self, counts: Int[Tensor, "*unit bin"], shares: Float[Tensor, " q"]) -> Float[Tensor, "*unit q"]:
        """Quantiles, each right to its bin: the inner end of the lowest bin that a share is reached in."""
        below = counts.cumsum(-1)
        need = (shares.to(below.device, widest(below.device)) * below[..., -1:]).ceil().clamp_min(1).long()
        return self.inner_ends().to(below.device)[torch.searchsorted(below, need)]


def as_single(values: Tensor) -> Tensor:
    """Numbers in float32, themselves where they are."""
    return values if values.dtype == torch.float32 else single(values)


def single(values: Tensor) -> Tensor:
    """A contiguous copy in float32."""
    return torch.empty(values.shape, dtype=torch.float32, device=values.device).copy_(values)
