"""Sums over bags of rows, and dot products of rows, as Triton kernels; ``bags`` decides where they are used.

    out_b = sum_{e in bag b} v_e r_{i(e)}          one program a bag and block of columns, entries in their order
    out_e = g_{b(e)} . r_{i(e)}                    one program a block of entries, all columns

Each number is written by one program, which adds in a fixed order: there are no atomics, and the same call gives the
same bits. Sums are in float32, in float64 for float64. A bag's entries are added by one program, however many they are,
so a feature that is active everywhere is the last to be done.

Importing this file needs Triton; without it the file is empty, so that tools may import all files of the package.
"""

# pyright: reportInvalidTypeForm=false
# (tl.constexpr is no type where Triton is not installed)

from typing import Any

import torch
from torch import Tensor

try:
    import triton  # pyright: ignore[reportMissingImports]
    import triton.language as tl  # pyright: ignore[reportMissingImports]
except ImportError:
    triton: Any = None
    tl: Any = None

TILE = 16  # entries a program has in hand
TILE_WIDTH = 256  # columns of a program

if triton is not None:

    @triton.jit
    def _sums(
        values,
        rows,
        index,
        starts,
        out,
        n_entries,
        n_bags,
        d,
        ENTRIES: tl.constexpr,
        WIDTH: tl.constexpr,
        WIDE: tl.constexpr,
    ):
        bag = tl.program_id(0).to(tl.int64)
        column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
        first = tl.load(starts + bag)
        end = tl.load(starts + bag + 1, mask=bag + 1 < n_bags, other=n_entries)
        total = tl.zeros((WIDTH,), dtype=WIDE)
        for begin in range(first, end, ENTRIES):
            entry = begin + tl.arange(0, ENTRIES)
            within = entry < end
            value = tl.load(values + entry, mask=within, other=0.0).to(WIDE)
            row = tl.load(index + entry, mask=within, other=0)
            some = within[:, None] & (column < d)[None, :]
            read = tl.load(rows + row[:, None] * d + column[None, :], mask=some, other=0.0).to(WIDE)
            total += tl.sum(read * value[:, None], 0)
        tl.store(out + bag * d + column, total.to(out.dtype.element_ty), mask=column < d)

    @triton.jit
    def _dots(
        left,
        right,
        left_index,
        right_index,
        out,
        n_entries,
        d,
        ENTRIES: tl.constexpr,
        WIDTH: tl.constexpr,
        WIDE: tl.constexpr,
    ):
        entry = tl.program_id(0).to(tl.int64) * ENTRIES + tl.arange(0, ENTRIES)
        within = entry < n_entries
        of_left = tl.load(left_index + entry, mask=within, other=0)[:, None] * d
        of_right = tl.load(right_index + entry, mask=within, other=0)[:, None] * d
        total = tl.zeros((ENTRIES, WIDTH), dtype=WIDE)
        for begin in range(0, d, WIDTH):
            column = (begin + tl.arange(0, WIDTH))[None, :]
            some = within[:, None] & (column < d)
            a = tl.load(left + of_left + column, mask=some, other=0.0).to(WIDE)
            b = tl.load(right + of_right + column, mask=some, other=0.0).to(WIDE)
            total += a * b
        tl.store(out + entry, tl.sum(total, 1).to(out.dtype.element_ty), mask=within)


def sums(values: Tensor, rows: Tensor, index: Tensor, starts: Tensor) -> Tensor:
    """See ``bags.sums``."""
    d, n_bags = rows.shape[1], len(starts)
    out = rows.new_empty(n_bags, d)
    if n_bags and d:
        width = min(TILE_WIDTH, triton.next_power_of_2(d))
        arrays = [each.contiguous() for each in (values, rows, index, starts)]
        with torch.cuda.device_of(rows):
            grid = (n_bags, triton.cdiv(d, width))
            _sums[grid](*arrays, out, len(index), n_bags, d, ENTRIES=TILE, WIDTH=width, WIDE=_wide(rows))
    return out


def dots(left: Tensor, right: Tensor, left_index: Tensor, right_index: Tensor) -> Tensor:
    """See ``bags.dots``."""
    d, n = right.shape[1], len(left_index)
    out = right.new_empty(n)
    if n:
        width = min(TILE_WIDTH // 2, triton.next_power_of_2(max(1, d)))
        arrays = [each.contiguous() for each in (left, right, left_index, right_index)]
        with torch.cuda.device_of(right):
            grid = (triton.cdiv(n, TILE),)
            _dots[grid](*arrays, out, n, d, ENTRIES=TILE, WIDTH=width, WIDE=_wide(right))
    return out


def _wide(rows: Tensor) -> Any:
    return tl.float64 if rows.dtype == torch.float64 else tl.float32
