"""Interchanged runs with gradients, from the first place on.

The model is frozen and nothing before the place changes, so a step of a search computes only the suffix: a sweep's
packed pass, with autograd on. Sources were read once (``alignment.seats``); what the bases leave before the place is
recorded once where it fits in memory, else once per step. Gradients reach the directions and stop there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.localize.abstraction.alignment import Seat
from caseback.localize.abstraction.interchanges import Interchanges
from caseback.model.running.edits import Edit
from caseback.model.running.metrics import Bound, log_prob
from caseback.model.running.model import Model
from caseback.model.running.passing import undisturbed
from caseback.model.running.tokens import Tokens
from caseback.model.running.undo import as_found
from caseback.model.sweeping.clean import Clean, record
from caseback.model.sweeping.packed import Packed, Segment
from caseback.model.sweeping.segments import entry_layer, plan

Put = Callable[[Seat], list[Edit]]
"""A place's interchange with the directions as they now are."""


class Unreachable(CasebackError):
    """A place from which nothing that is swapped reaches the answer."""


class Suffixes:
    """The bases of some examples, ready to be run again from where they are intervened on.

    Parameters
    ----------
    model, data, seats
        The model, the examples and the places found in them.
    memory
        Bytes that recorded bases may take for as long as this lives; past it each step records its own.

    Raises
    ------
    Unreachable
        Where an interchange comes behind the answer.
    """

    def __init__(self, model: Model, data: Interchanges, seats: Sequence[Seat], *, memory: int | None = None):
        self.model, self.data, self.seats = model, data, list(seats)
        self.entry = min(entry_layer(seat.site, model.n_layers) for seat in seats)
        self.bound = self._bound(data)
        self.segments = self._segments(data, self.seats, self.bound)
        if len(self.segments) < len(data):
            late = next(i for i in range(len(data)) if i not in self.segments)
            raise Unreachable(
                f"example {late}: {seats[0].at} lies behind the position whose answer is measured, so nothing that is "
                "swapped there can reach it"
            )
        self.clean = None
        if self._size(data.base) <= limit("recorded_bytes", given=memory):
            self.clean = self._recorded()

    @as_found
    def log_probs(self, rows: Int[Tensor, " row"], put: Put) -> Float[Tensor, " row"]:
        """The log probability of each example's target under the interchange, with a graph to the directions."""
        with undisturbed(self.model.anatomy, grad=True):
            if self.clean is not None:
                picked, seats, clean, bound = rows.tolist(), self.seats, self.clean, self.bound
                segments = [self.segments[i] for i in picked]
            else:
                data, seats = self.data[rows], [seat.of(rows) for seat in self.seats]
                picked, clean, bound = list(range(len(rows))), self._record(data.base), self._bound(data)
                by_example = self._segments(data, seats, bound)
                segments = [by_example[i] for i in picked]
            edits = [(0, seat.site, edit) for seat in seats for edit in put(seat)]
            log_p = Packed(self.model.anatomy, clean, segments, edits, bound).values()
        if not log_p.requires_grad:
            raise self.nowhere
        return log_p

    @property
    def nowhere(self) -> Unreachable:
        """What is wrong where the answer is the same whatever is swapped."""
        return Unreachable(
            f"nothing that is swapped at {self.seats[0].at} changes the answer: no later layer reads that position, or "
            "bases and sources do not differ there; choose an earlier layer, or the answer's own position"
        )

    @as_found
    def _recorded(self) -> Clean:
        with undisturbed(self.model.anatomy, grad=False):
            return self._record(self.data.base)

    def _bound(self, data: Interchanges) -> Bound:
        return log_prob(data.target, pos=data.pos).on(data.base, self.model.anatomy)

    def _segments(self, data: Interchanges, seats: Sequence[Seat], bound: Bound) -> dict[int, Segment]:
        edits = [(0, seat.site, edit) for seat in seats for edit in seat.edits()]
        return {s.example: s for s in plan(edits, data.base, bound, self.model.anatomy, 0)}

    def _record(self, tokens: Tokens) -> Clean:
        also = {seat.site for seat in self.seats if seat.site.name in ("embed", "pos_embed")}
        clean = record(self.model.anatomy, tokens, sorted(also, key=str))
        # what lies before the first place is never read again: its tensors make way, to save memory
        for tensors in (clean.stream, clean.k, clean.v):
            for layer in range(min(self.entry, len(tensors))):
                tensors[layer] = tensors[layer].new_empty(0, *tensors[layer].shape[1:])
        return clean

    def _size(self, tokens: Tokens) -> int:
        anatomy = self.model.anatomy
        wide = max(sum(2 * p.dims.n_kv_heads * p.dims.d_head for p in anatomy.layers[self.entry :]), 0)
        return tokens.ids.numel() * (wide + (anatomy.n_layers + 1) * anatomy.d_model) * self.model.dtype.itemsize
