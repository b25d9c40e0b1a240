"""Gradients made short enough to keep: random projections whose dot products are right in expectation.

    normal, rademacher   P vec(G), P_ij of variance 1 / k          one draw per parameter and dimension (TRAK)
    sparse               each parameter added to one of k, +-1     the same in one pass (a count sketch)
    logra                P_A^T G P_S of every matrix               low rank: P never meets the gradient itself

All of them keep <g, h> in expectation; its spread falls as 1 / sqrt(k). The first three mix a model's matrices into k
numbers, ``logra`` keeps k x k of each matrix apart. With no projection gradients are kept whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, MemoryShortage, OutOfRange, did_you_mean
from caseback.jobs.budget import limit
from caseback.localize.inputs.training.matrices import Matrix
from caseback.localize.inputs.training.per_example import Factors
from caseback.model.arguments import checked

KINDS = ("whole", "sparse", "rademacher", "normal", "logra")
Segment = tuple[slice, Float[Tensor, "batch k"]]


@checked
@dataclass(frozen=True)
class Projection:
    """How gradients are shortened.

    Attributes
    ----------
    kind
        ``"whole"``, ``"sparse"``, ``"rademacher"``, ``"normal"`` or ``"logra"``.
    dim
        What is left: so many numbers in all, for ``"logra"`` so many per side of each matrix (fewer where the matrix
        has fewer). Not used for ``"whole"``.
    seed
        Same seed, same result. The projection is drawn with it.

    Raises
    ------
    CasebackError
        For an unknown kind.
    OutOfRange
        For a ``dim`` below 1.

    Examples
    --------
    >>> Projection("logra", 16).dim
    16
    """

    kind: str = "whole"
    dim: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise CasebackError(f"projection {self.kind!r} is unknown. {did_you_mean(self.kind, KINDS)}")
        if self.dim < 1:
            raise OutOfRange(f"projection to {self.dim} dimensions: expected at least 1")


WHOLE = Projection()


class Projector(Protocol):
    """A projection of the gradients of given matrices.

    Attributes
    ----------
    segments
        The columns that stay apart: one per matrix, or one in all.
    """

    segments: list[slice]

    def pieces(self, gradients: Sequence[Factors]) -> Iterator[Segment]:
        """Each segment's columns of the projected gradients (batch, k), one after another."""
        ...


def width(projector: Projector) -> int:
    """How many numbers a gradient becomes."""
    return projector.segments[-1].stop


def joined(projector: Projector, gradients: Sequence[Factors]) -> Float[Tensor, "batch k"]:
    """The projected gradients."""
    return torch.cat([piece for _, piece in projector.pieces(gradients)], 1)


def projector_of(projection: Projection, matrices: Sequence[Matrix]) -> Projector:
    """A projection drawn for given matrices.

    Raises
    ------
    MemoryShortage
        For a dense projection of more than 2**28 entries.
    """
    if projection.kind == "whole":
        return Whole(matrices)
    if projection.kind == "sparse":
        return Sparse(projection, matrices)
    if projection.kind == "logra":
        return TwoSided(list(_drawn_sides(projection, matrices)))
    return Dense(projection, matrices)


def _segments(sizes: Sequence[int]) -> list[slice]:
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


class Whole:
    """No projection."""

    def __init__(self, matrices: Sequence[Matrix]):
        self.segments = _segments([m.size for m in matrices])

    def pieces(self, gradients: Sequence[Factors]) -> Iterator[Segment]:
        for segment, f in zip(self.segments, gradients, strict=True):
            yield segment, f.whole().flatten(1)


class TwoSided:
    """P_A^T G P_S of each matrix: both factors are projected before they meet."""

    def __init__(self, sides: Sequence[tuple[Float[Tensor, "d_in k"], Float[Tensor, "d_out k"]]]):
        self.sides = [list(pair) for pair in sides]
        self.segments = _segments([a.shape[1] * s.shape[1] for a, s in sides])

    def pieces(self, gradients: Sequence[Factors]) -> Iterator[Segment]:
        for segment, pair, f in zip(self.segments, self.sides, gradients, strict=True):
            for side, x in enumerate((f.read, f.back)):
                pair[side] = pair[side].to(x)
            n_pos, (k_in, k_out) = f.read.shape[1], (p.shape[1] for p in pair)
            d_in, d_out = f.read.shape[2], f.back.shape[2]
            # by factors: pos (d_in k_in + d_out k_out + k_in k_out); whole first: d_in d_out pos + ...
            short = n_pos * (d_in * k_in + d_out * k_out + k_in * k_out)
            long = d_in * d_out * n_pos + min(d_in, d_out) * k_in * k_out + d_in * d_out * min(k_in, k_out)
            if short <= long:
                piece = (f.read @ pair[0]).transpose(1, 2) @ (f.back @ pair[1])
            else:
                piece = pair[0].T @ f.whole() @ pair[1]
            yield segment, piece.flatten(1)


def _stream(projection: Projection, number: int) -> torch.Generator:
    """The draws of one matrix: streams of its own, so that a matrix's draws do not depend on those before it."""
    # the factor keeps matrix 1 of seed 0 apart from matrix 0 of seed 1
    return torch.Generator().manual_seed(projection.seed * 1_000_003 + number)


def _drawn_sides(projection: Projection, matrices: Sequence[Matrix]) -> Iterator[tuple[Tensor, Tensor]]:
    for number, matrix in enumerate(matrices):
        draw = _stream(projection, number)
        sides = []
        for d in (matrix.d_in, matrix.d_out):
            k = min(projection.dim, d)
            sides.append(torch.eye(d) if k == d else torch.randn(d, k, generator=draw) / k**0.5)
        yield sides[0], sides[1]


class Sparse:
    """Each parameter is added, with a sign, to one of k sums. Four bytes per parameter are kept."""

    def __init__(self, projection: Projection, matrices: Sequence[Matrix]):
        self.dim, self.segments = projection.dim, [slice(0, projection.dim)]
        self.places: list[Tensor] = []
        for number, matrix in enumerate(matrices):
            draw = _stream(projection, number)
            # the upper half of the places counts as negative
            self.places.append(torch.randint(2 * self.dim, (matrix.size,), generator=draw, dtype=torch.int32))

    def pieces(self, gradients: Sequence[Factors]) -> Iterator[Segment]:
        total: Tensor | None = None
        for number, f in enumerate(gradients):
            whole = f.whole().flatten(1)
            total = whole.new_zeros(len(whole), 2 * self.dim) if total is None else total
            self.places[number] = self.places[number].to(whole.device)
            total.index_add_(1, self.places[number], whole)
        if total is not None:
            yield self.segments[0], total[:, : self.dim] - total[:, self.dim :]


class Dense:
    """A full matrix of draws, for models small enough."""

    def __init__(self, projection: Projection, matrices: Sequence[Matrix]):
        size = sum(m.size for m in matrices) * projection.dim
        if size > (most := limit("dense_projection_entries")):
            raise MemoryShortage(
                f"a dense projection of {sum(m.size for m in matrices):,} parameters to {projection.dim} takes "
                f"{size:,} entries, more than {most:,}: take 'sparse' or 'logra', or fewer dimensions"
            )
        self.segments = [slice(0, projection.dim)]
        self.drawn: list[Tensor] = []
        for number, matrix in enumerate(matrices):
            draw = _stream(projection, number)
            shape = (matrix.size, projection.dim)
            if projection.kind == "normal":
                draws = torch.randn(shape, generator=draw)
            else:
                draws = torch.randint(2, shape, generator=draw, dtype=torch.int8).float() * 2 - 1
            self.drawn.append(draws / projection.dim**0.5)

    def pieces(self, gradients: Sequence[Factors]) -> Iterator[Segment]:
        total: Tensor | None = None
        for number, f in enumerate(gradients):
            whole = f.whole().flatten(1)
            self.drawn[number] = self.drawn[number].to(whole)
            total = whole @ self.drawn[number] if total is None else total + whole @ self.drawn[number]
        if total is not None:
            yield self.segments[0], total
