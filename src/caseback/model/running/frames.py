"""Frames: which token stands in which row of a site's tensor.

The same edit must find its tokens in a padded batch, in one decoding step, and among the packed suffixes of a sweep.
Each of these layouts is a list of spans: consecutive tokens of one prompt in consecutive rows. Edits are applied to
rows and never know which layout they are in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from caseback.errors import EditError, OutOfRange
from caseback.model.anatomy.coerce import as_indices, as_positions
from caseback.model.argument_kinds import Coerced
from caseback.model.running.edit_values import indices_in
from caseback.model.running.tokens import Tokens

Positions = Annotated[
    int | Sequence[int] | slice | Tensor | str | None, Coerced(as_positions, "positions, as numbers or a slice")
]
Index = Annotated[int | Sequence[int] | slice | None, Coerced(as_indices, "a whole number, several, or a slice")]


@dataclass(frozen=True)
class Span:
    """Tokens ``first .. first + count`` of prompt ``example`` in rows from ``row``, belonging to variant ``owner``."""

    owner: int
    example: int
    first: int
    count: int
    row: int


@dataclass(frozen=True)
class Rows:
    """Tokens of edits, one entry each, as whole numbers of the host: reading them waits for no device.

    Attributes
    ----------
    at
        (5, k): the row, the prompt, the position in it, the place in the edit's list of positions, and which edit.
    """

    at: Int[np.ndarray, "5 k"]

    def __len__(self) -> int:
        return self.at.shape[1]

    @property
    def edit(self) -> Int[np.ndarray, " k"]:
        """Which of the edits that were asked for each entry is of."""
        return self.at[4]

    @cached_property
    def row(self) -> Int[Tensor, " k"]:
        return torch.from_numpy(self.at[0])

    @cached_property
    def example(self) -> Int[Tensor, " k"]:
        return torch.from_numpy(self.at[1])

    @cached_property
    def token(self) -> Int[Tensor, " k"]:
        return torch.from_numpy(self.at[2])

    @cached_property
    def order(self) -> Int[Tensor, " k"]:
        return torch.from_numpy(self.at[3])

    @cached_property
    def in_order(self) -> bool:
        """Whether they are rows 0, 1, 2 ... without a gap."""
        return np.array_equal(self.at[0], np.arange(len(self)))


class Addressed(Protocol):
    """What of an edit says which tokens it is of."""

    tied: ClassVar[bool]

    @property
    def pos(self) -> Positions: ...
    @property
    def prompt(self) -> Index: ...


def positions(pos: Positions, example: int, length: int, *, open_end: bool = False) -> range | list[int]:
    """The tokens that an edit's ``pos`` names in one prompt, negative ones counted from the end of the prompt.

    ``pos`` is None (all), an int, several ints, a slice, or a tensor with one position per prompt. With ``open_end``
    positions past the prompt are allowed (generating adds them).
    """
    if pos is None:
        return range(length)
    if isinstance(pos, slice):
        if pos.step == 0:
            raise OutOfRange(f"positions {pos} take steps of 0: expected a step of 1 or more")
        return range(*pos.indices(length))
    if isinstance(pos, Tensor):
        pos = pos.tolist()[example] if pos.ndim else int(pos)
    if isinstance(pos, str):
        raise EditError(f"pos={pos!r}: expected a position, several, or a slice")
    try:
        wanted = [pos] if isinstance(pos, int) else [index(p) for p in pos]
    except TypeError:
        raise EditError(f"pos={pos!r}: expected a position, several, or a slice") from None
    for p in wanted:
        if p < -length or (p >= length and not open_end):
            raise OutOfRange(
                f"position {p} is out of range: prompt {example} has {length} tokens, so positions go from "
                f"{-length} to {length - 1}"
            )
    return [p + length if p < 0 else p for p in wanted]


class Frame:
    """A layout of tokens in rows."""

    def __init__(self, spans: Sequence[Span], lengths: Sequence[int], *, open_end: bool = False):
        self.spans, self.lengths, self.open_end = list(spans), list(lengths), open_end
        self._owned: dict[int, list[Span]] = {}
        self._looked_up: dict[Any, tuple[Any, Rows | None]] = {}
        for span in self.spans:
            self._owned.setdefault(span.owner, []).append(span)

    def rows(self, edits: Sequence[tuple[int | None, Addressed]], *, height: int | None = None) -> Rows | None:
        """The rows of some edits' tokens, each edit with its owner (None: every variant); None if there are none.

        While generating, an edit of all positions grows with the text unless it is tied to another run's. ``height``
        leaves out spans that begin at that row or later: those of a sweep that have not joined yet.
        """
        if not self.open_end:
            return self._rows(edits, height)
        # a step of decoding is short: the same edit at every layer must not look for its rows at each of them
        key = (*[(owner, _key(edit.pos), _key(edit.prompt), edit.tied) for owner, edit in edits], height)
        if key not in self._looked_up:
            self._looked_up[key] = edits, self._rows(edits, height)  # a tensor's id is its own while it lives
        return self._looked_up[key][1]

    def _rows(self, edits: Sequence[tuple[int | None, Addressed]], height: int | None) -> Rows | None:
        parts: list[np.ndarray] = []
        for which, (owner, edit) in enumerate(edits):
            chosen = indices_in(edit.prompt, len(self.lengths), "prompt", "this batch")
            for span in self.spans if owner is None else self._owned.get(owner, ()):
                if height is not None and span.row >= height or chosen is not None and span.example not in chosen:
                    continue
                token, order = self._tokens(edit, span)
                if len(token):
                    at = np.empty((5, len(token)), dtype=np.int64)
                    at[0], at[1], at[2], at[3], at[4] = (
                        token + (span.row - span.first),
                        span.example,
                        token,
                        order,
                        which,
                    )
                    parts.append(at)
        return Rows(np.concatenate(parts, 1)) if parts else None

    def _tokens(self, edit: Addressed, span: Span) -> tuple[np.ndarray, np.ndarray]:
        """An edit's positions inside a span, and their places in its list of positions."""
        pos, length = edit.pos, self.lengths[span.example]
        grows = self.open_end and not edit.tied
        if grows and (pos is None or (isinstance(pos, slice) and pos.stop is None)):
            if isinstance(pos, slice) and (pos.step is None or pos.step > 0):
                # a start that is counted from the end is counted from the prompt's end, however long the text gets
                pos = slice(pos.indices(length)[0], None, pos.step)
            length = max(length, span.first + span.count)
        wanted = positions(pos, span.example, length, open_end=self.open_end)
        stop = span.first + span.count
        if isinstance(wanted, range) and wanted.step == 1:
            first = max(wanted.start, span.first)
            token = np.arange(first, max(first, min(wanted.stop, stop)))
            return token, token - wanted.start
        every = np.array(wanted, dtype=np.int64)
        order = np.flatnonzero((every >= span.first) & (every < stop))
        return every[order], order


def _key(address: Any) -> Any:
    """What tells one part of an address from another."""
    if address is None:
        return None
    if isinstance(address, Tensor):
        return "tensor", id(address)
    if isinstance(address, slice):
        return "slice", address.start, address.stop, address.step
    return tuple(address) if isinstance(address, list) else address


def batch_frame(tokens: Tokens) -> Frame:
    """A padded batch flattened to rows."""
    width, ends = tokens.ids.shape[1], tokens.extents
    return Frame([Span(0, b, 0, n, b * width + at) for b, (at, n) in enumerate(ends)], [n for _, n in ends])


def step_frame(tokens: Tokens, rows: int, start: int, width: int) -> Frame:
    """Columns ``start .. start + width`` of sequences being generated; rows / batch in succession per prompt."""
    per = rows // len(tokens)
    spans = []
    for row in range(rows):
        pad = tokens.extents[row // per][0]
        column = max(start, pad)
        spans.append(Span(0, row // per, column - pad, start + width - column, row * width + column - start))
    return Frame([s for s in spans if s.count > 0], [n for _, n in tokens.extents], open_end=True)
