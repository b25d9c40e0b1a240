"""Inverses of a curvature that is the second moment of rows, applied to queries.

    damped     (C + lambda)^-1 q,    C = (1/n) sum_i g_i g_i^T
    DataInf    (1/n) sum_i (lambda + g_i g_i^T)^-1 q                    the mean of inverses instead (3.1.27)
             = (1/lambda) (q - (1/n) sum_i (q . g_i) / (lambda + |g_i|^2) g_i)

Both go segment by segment: C is block-diagonal, a block per segment. Where a block has more entries than there are
rows, the damped inverse is taken in the space of rows, (lambda + G^T G / n)^-1 = (1 - G^T (n lambda + G G^T)^-1 G) /
lambda, which is the same. lambda is ``damping`` times the block's mean eigenvalue, (1/n) sum |g_i|^2 / k.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, MemoryShortage, OutOfRange
from caseback.jobs.budget import limit
from caseback.localize.inputs.training.rows import Rows
from caseback.model.anatomy.coerce import in_float64


def check_damping(damping: float, *, zero: bool = True) -> float:
    """Refuse a damping that is not a share of a mean eigenvalue."""
    if not (damping > 0 or (zero and damping == 0)) or damping == float("inf"):
        raise OutOfRange(f"damping is {damping}: expected a number {'of at least' if zero else 'above'} 0")
    return damping


def damped(
    rows: Rows, queries: Float[Tensor, "query k"], damping: float, *, joint: bool = False
) -> Float[Tensor, "query k"]:
    """(C + lambda)^-1 q of every query.

    Parameters
    ----------
    rows
        The g_i.
    queries
        The q.
    damping
        lambda as a share of each block's mean eigenvalue; 0 for none.
    joint
        One block of all entries instead of one per segment.

    Raises
    ------
    CasebackError
        Where C is singular and ``damping`` is 0.
    MemoryShortage
        Where the blocks, or the rows in place of larger ones, take more than 8 GiB.
    """
    check_damping(damping)
    whole = slice(0, queries.shape[1])
    blocks = [whole] if joint else rows.segments
    n, q = len(rows.examples), in_float64(queries)
    by_entries = [segment.stop - segment.start <= n for segment in blocks]
    shapes = [(min(s.stop - s.start, n), s.stop - s.start) for s in blocks]
    most = limit("second_moment_bytes")
    if (size := 8 * sum(a * b for a, b in shapes)) > most:
        raise MemoryShortage(
            f"the second moment of {n} gradients of {q.shape[1]:,} entries takes {size / 2**30:.1f} GiB, more than "
            f"{most / 2**30:.1f}: take a projection, such as Projection('logra', 16)"
        )
    held = [q.new_zeros(shape) for shape in shapes]
    for chunk in rows:
        pieces = [piece for _, piece in chunk.pieces] if joint else (piece for _, piece in chunk.pieces)
        if joint:
            pieces = [torch.cat(list(pieces), 1)]
        for place, by_entry, piece in zip(held, by_entries, pieces, strict=True):
            piece = piece.to(q)
            if by_entry:
                place += piece.T @ piece
            else:
                place[torch.tensor(chunk.numbers, device=q.device)] = piece
    solved = torch.empty_like(q)
    for segment, by_entry, block in zip(blocks, by_entries, held, strict=True):
        solve = _by_entries if by_entry else _by_rows
        solved[:, segment] = solve(block, q[:, segment], n, damping)
    return solved.to(queries)


def _by_entries(moment: Tensor, q: Tensor, n: int, damping: float) -> Tensor:
    c = moment / n
    c.diagonal().add_(damping * c.trace() / len(c))
    return _positive(c, q.T).T


def _by_rows(g: Tensor, q: Tensor, n: int, damping: float) -> Tensor:
    lam = damping * g.square().sum() / n / g.shape[1]
    if not lam > 0:
        raise _singular(f"{g.shape[1]} entries from {n} rows")
    gram = g @ g.T
    gram.diagonal().add_(n * lam)
    return (q - (_positive(gram, g @ q.T)).T @ g) / lam


def _positive(matrix: Tensor, right: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(matrix)
    diagonal = factor.diagonal()
    # what rounding leaves of a zero pivot must not be divided by
    if int(info) or bool(diagonal.min() <= 1e-7 * diagonal.max()):
        raise _singular(f"{len(matrix)} by {len(matrix)}")
    return torch.cholesky_solve(right, factor)


def _singular(what: str) -> CasebackError:
    return CasebackError(
        f"the gradients' second moment ({what}) has no inverse: give more examples, project to fewer dimensions, or "
        "raise damping above 0"
    )


def mean_of_inverses(rows: Rows, queries: Float[Tensor, "query k"], damping: float) -> Float[Tensor, "query k"]:
    """DataInf's (1/n) sum_i (lambda + g_i g_i^T)^-1 q of every query, a block per segment."""
    check_damping(damping, zero=False)
    n, q = len(rows.examples), in_float64(queries)
    lams = [damping * size / n for size in _mean_squares(rows, q)]
    if min(lams) <= 0:
        raise _singular("a block of zeros")
    solved = q.clone()
    for chunk in rows:
        for lam, (segment, piece) in zip(lams, chunk.pieces, strict=True):
            g = piece.to(q)
            share = (q[:, segment] @ g.T) / (lam + g.square().sum(1))
            solved[:, segment] -= share @ g / n
    for lam, segment in zip(lams, rows.segments, strict=True):
        solved[:, segment] /= lam
    return solved.to(queries)


def _mean_squares(rows: Rows, like: Tensor) -> Sequence[float]:
    """Each block's sum over rows of |g|^2 / k."""
    total = [0.0] * len(rows.segments)
    for chunk in rows:
        for i, (segment, piece) in enumerate(chunk.pieces):
            total[i] += float(piece.to(like).square().sum()) / (segment.stop - segment.start)
    return total
