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
from typing import Annotated, Any

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
    """An edit's tokens, one entry each: row, prompt, position, and place in the edit's list of positions."""

    row: Int[Tensor, " k"]
    example: Int[Tensor, " k"]
    token: Int[Tensor, " k"]
    order: Int[Tensor, " k"]

    @cached_property
    def in_order(self) -> bool:
        """Whether they are rows 0, 1, 2 ... without a gap."""
        return torch.equal(self.row, torch.arange(len(self.row)))


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
        pos = int(pos[example]) if pos.ndim else int(pos)
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

    def rows(
        self,
        owner: int | None,
        pos: Positions,
        *,
        prompt: Index = None,
        grow: bool = True,
        height: int | None = None,
    ) -> Rows | None:
        """The rows of a variant's tokens at ``pos`` (owner None: of every variant's); None if this layout has none.

        ``prompt`` names prompts of the batch, all by default. While generating, "all" grows with the text unless
        ``grow`` is False. ``height`` leaves out spans that begin at that row or later: those of a sweep that have not
        joined yet.
        """
        if not self.open_end:
            return self._rows(owner, pos, prompt, grow, height)
        # a step of decoding is short: the same edit at every layer must not look for its rows at each of them
        key = (owner, _key(pos), _key(prompt), grow, height)
        if key not in self._looked_up:
            self._looked_up[key] = pos, self._rows(owner, pos, prompt, grow, height)  # a tensor is known while it lives
        return self._looked_up[key][1]

    def _rows(self, owner: int | None, pos: Positions, prompt: Index, grow: bool, height: int | None) -> Rows | None:
        parts: list[Tensor] = []
        chosen = indices_in(prompt, len(self.lengths), "prompt", "this batch")
        for span in self.spans if owner is None else self._owned.get(owner, ()):
            if height is not None and span.row >= height or chosen is not None and span.example not in chosen:
                continue
            length, here = self.lengths[span.example], pos
            if grow and self.open_end and (pos is None or (isinstance(pos, slice) and pos.stop is None)):
                if isinstance(pos, slice) and (pos.step is None or pos.step > 0):
                    # a start that is counted from the end is counted from the prompt's end, however long the text gets
                    here = slice(pos.indices(length)[0], None, pos.step)
                length = max(length, span.first + span.count)
            wanted = positions(here, span.example, length, open_end=self.open_end)
            token = (
                torch.arange(len(wanted)) * wanted.step + wanted.start
                if isinstance(wanted, range)
                else (torch.tensor(wanted, dtype=torch.long))
            )
            order = ((token >= span.first) & (token < span.first + span.count)).nonzero().squeeze(-1)
            token = token[order]
            example = torch.full_like(token, span.example)
            parts.append(torch.stack([token - span.first + span.row, example, token, order]))
        rows = torch.cat(parts, -1) if parts else torch.empty(4, 0, dtype=torch.long)
        return Rows(*rows) if rows.shape[-1] else None


def _key(address: Any) -> Any:
    """What tells one part of an address from another."""
    if isinstance(address, Tensor):
        return "tensor", id(address)
    if isinstance(address, slice):
        return "slice", address.start, address.stop, address.step
    return tuple(address) if isinstance(address, list) else address


def batch_frame(tokens: Tokens) -> Frame:
    """A padded batch flattened to rows."""
    width, lengths, first = tokens.ids.shape[1], tokens.lengths.tolist(), tokens.first.tolist()
    spans = [Span(0, b, 0, n, b * width + at) for b, (n, at) in enumerate(zip(lengths, first, strict=True))]
    return Frame(spans, lengths)


def step_frame(tokens: Tokens, rows: int, start: int, width: int) -> Frame:
    """Columns ``start .. start + width`` of sequences being generated; rows / batch in succession per prompt."""
    per = rows // len(tokens)
    spans = []
    for row in range(rows):
        pad = int(tokens.first[row // per])
        column = max(start, pad)
        spans.append(Span(0, row // per, column - pad, start + width - column, row * width + column - start))
    return Frame([s for s in spans if s.count > 0], tokens.lengths.tolist(), open_end=True)
