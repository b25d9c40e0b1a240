"""Many edited suffixes in one pass: the engine under ``sweep``.

An edit at layer l and position p leaves every earlier layer and every earlier position as it was. So a variant is a
*segment*: the tokens from p on, entering at layer l with the clean stream. Segments of all lengths stand one after
another in a single row (1, rows, d_model) and go through the model's own layers together; they meet only in
attention, where each sees the clean keys and values before its start and its own after it.

In the last layer only the rows that the metric reads are carried through; the others end with their keys and values.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache

from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.legacy import CACHE_NAMES
from caseback.model.anatomy.sites import MAPS, Site
from caseback.model.running.attention import attending
from caseback.model.running.edit import apply_edits
from caseback.model.running.edit_values import on
from caseback.model.running.edits import Edit
from caseback.model.running.frames import Frame, Span
from caseback.model.running.metrics import Bound
from caseback.model.running.session import INSIDE_ATTENTION, Session, through_view
from caseback.model.running.verify import unembed_normed
from caseback.model.running.wiring import wired
from caseback.model.sweeping.clean import Clean
from caseback.model.sweeping.fused_activations import fused
from caseback.model.sweeping.packed_attention import Bucket, Layout, attend, layout, of_like_length
from caseback.model.sweeping.reused_projections import looked_up

_NOT_GATHERED = ("alibi", "position_bias")
_BEHIND_HEADS = ("sinusoidal_pos", "attention_scaling")  # (1, 1, pos, ...): no masks, whatever their shape
_BEFORE_PROJECTIONS = ("resid_pre", "attn_in", "attn_norm")
_NOBODY = -1  # the owner of clean positions, at which only standing edits are made


@dataclass(frozen=True)
class Segment:
    """Tokens ``start .. stop`` of a prompt under one variant's edits, entering before ``layer``."""

    variant: int
    example: int
    start: int
    stop: int
    layer: int

    def __len__(self) -> int:
        return self.stop - self.start


class _Position:
    """A stand-in cache for a layer that counts positions from it: its length makes the layer's arange right."""

    def __init__(self, column: Tensor):
        self.length = column - torch.arange(len(column), device=column.device)

    def get_seq_length(self, *_: Any) -> Tensor:
        return self.length

    def update(self, k: Tensor, v: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return k, v


class _OnlyKeysAndValues(Exception):
    """Raised by attention in the last layer's first pass, once keys and values are known."""


class Packed:
    """One pass over a chunk of segments.

    Parameters
    ----------
    segments
        In order of the layer that they enter.
    edits
        (variant, site, edit) of the chunk's variants.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        clean: Clean,
        segments: Sequence[Segment],
        edits: Sequence[tuple[int, Site, Edit]],
        bound: Bound,
    ):
        self.anatomy, self.clean, self.segments, self.bound = anatomy, clean, list(segments), bound
        self.first, self.lengths = ([each[i] for each in clean.tokens.extents] for i in (0, 1))
        self.device = clean.stream[0].device
        self.width = clean.tokens.ids.shape[1]
        sizes = np.array([len(s) for s in self.segments], dtype=np.int64)
        ends = sizes.cumsum()
        self.row0, self.total = (ends - sizes).tolist(), int(sizes.sum())
        shift = np.array([self.first[s.example] + s.start - r for s, r in zip(self.segments, self.row0, strict=True)])
        # the prompt and the column of each row, on the host and on the device
        self.examples = np.array([s.example for s in self.segments], dtype=np.int64).repeat(sizes)
        self.places = np.arange(self.total) + shift.repeat(sizes).astype(np.int64)
        self.example, self.column = self._put(self.examples), self._put(self.places)
        self.columns = bound.host_columns
        entry = {s.variant: s.layer for s in self.segments}
        # Edits of the stream that a segment enters with are made "at the door", before any layer is called.
        self.door: dict[Site, list[tuple[int, Site, Edit]]] = {}
        inside = []
        for owner, site, edit in edits:
            if _is_door(site, entry[owner]):
                self.door.setdefault(site.base, []).append((owner, site, edit))
            else:
                inside.append((owner, site, edit))
        self.session = Session(
            anatomy,
            self._frame(self.segments, self.row0),
            (1, 0),
            reads=[] if bound.site is None else [bound.site],
            edits=inside,
            columns_before=self.first,
            standing_at=lambda site: site.name not in ("embed", "pos_embed"),  # these are in the clean stream already
        )
        self.gathered: dict[int, Any] = {}
        self.layouts: dict[tuple[int, bool, torch.device], Layout] = {}  # of the rows that are active now
        self.keys_only = self.last_rows = False
        self.last_keys_and_values: tuple[Tensor, Tensor] | None = None
        self.maps: list[tuple[np.ndarray, Tensor]] = []
        # Rows whose input to the layer now called is the clean run's: their projections can be looked up.
        self.unchanged = np.zeros(self.total, dtype=bool)

    def _put(self, numbers: np.ndarray) -> Tensor:
        return on(self.device, numbers)

    def _frame(self, segments: Sequence[Segment], row0: Sequence[int]) -> Frame:
        spans = [Span(s.variant, s.example, s.start, len(s), r) for s, r in zip(segments, row0, strict=True)]
        return Frame(spans, self.lengths)

    def values(self) -> Float[Tensor, " segment"]:
        """The metric of every segment's variant on its prompt."""
        with attending(self.anatomy, self._attend), fused(self.anatomy):
            hidden = self._through_layers()
        site = self.bound.site
        return self._measure(hidden) if site is None or site.layer is None else self._measure_site(site)

    def after(self, layer: int) -> Tensor:
        """The stream after the one layer that all segments enter; row i is ``column[i]`` of prompt ``example[i]``."""
        self.active = 0
        with attending(self.anatomy, self._attend), fused(self.anatomy):
            hidden = self.clean.stream[layer].new_empty(0, self.clean.stream[layer].shape[-1])
            return self._call(self._join(hidden, layer), layer)

    def _through_layers(self) -> Tensor:
        n, site = self.anatomy.n_layers, self.bound.site
        if site is not None and site.layer is not None:
            n = site.layer + 1
        hidden = self.clean.stream[0].new_empty(0, self.clean.stream[0].shape[-1])
        self.active = 0
        for layer in range(min((s.layer for s in self.segments), default=n), n + 1):
            hidden = self._join(hidden, layer)
            if layer < n and self.active:
                final = layer == n - 1 and self.bound.columns is not None and (site is None or site.layer is None)
                hidden = self._last(hidden, layer) if final and not self.session.sources else self._call(hidden, layer)
        return hidden

    def _join(self, hidden: Tensor, layer: int) -> Tensor:
        """Add the segments that enter here, with the clean stream and the edits made at the door."""
        hidden = self._on(self.clean.stream[layer].device, hidden)
        joining = [s for s in self.segments if s.layer == layer]
        self.unchanged[:] = False
        if not joining:
            return hidden
        before, after = len(hidden), self.row0[self.segments.index(joining[-1])] + len(joining[-1])
        if self.last_rows:
            return self._join_late(hidden, joining, layer)
        hidden = torch.cat([hidden, self._entering(layer, before, after)])
        self.active = after
        self._mark_unchanged(before, after, layer)
        return self._at_door(hidden, {s.variant for s in joining}, layer, self.session.frame, self.example, self.column)

    def _on(self, device: torch.device, hidden: Tensor) -> Tensor:
        """The rows on the device of the layer that comes next, with the index tensors that go with them."""
        if device != self.device:
            self.device, self.example, self.column = device, self.example.to(device), self.column.to(device)
        return hidden.to(device)

    def _mark_unchanged(self, before: int, after: int, layer: int) -> None:
        """Mark the rows that came in and that no edit changes before the layer's queries, keys and values."""
        if any(site.is_module and site.layer == layer for site in (*self.session.edits, *self.session.reads)):
            return  # a module's site may be anywhere, even inside a projection
        self.unchanged[before:after] = True
        changing = [edit for site, edits in self.session.edits.items() if _may_change(site, layer) for edit in edits]
        for base, owned in self.door.items():
            if base.layer is None or base.layer == layer - 1:
                changing += [(owner, edit) for owner, _, edit in owned]
        if (rows := self.session.frame.rows(changing, height=after)) is not None:
            self.unchanged[rows.at[0]] = False

    def _entering(self, layer: int, before: int, after: int) -> Tensor:
        """The clean stream before a layer, at the rows that enter there."""
        return self.clean.stream[layer][self.example[before:after], self.column[before:after]]

    def _join_late(self, hidden: Tensor, joining: list[Segment], layer: int) -> Tensor:
        """After the last layer only the metric's rows are left, one per segment."""
        example = self._put(np.array([s.example for s in joining]))
        column = self._put(np.array([self.columns[s.example] for s in joining]))
        padding = torch.zeros(len(hidden), dtype=torch.long, device=self.device)
        hidden = torch.cat([hidden, self.clean.stream[layer][example, column]])
        frame = self._metric_frame()
        everyone = {s.variant for s in joining}
        return self._at_door(
            hidden, everyone, layer, frame, torch.cat([padding, example]), torch.cat([padding, column])
        )

    def _at_door(
        self, hidden: Tensor, variants: set[int], layer: int, frame: Frame, example: Tensor, column: Tensor
    ) -> Tensor:
        for name in ("embed", "pos_embed", "resid_post"):
            site = Site(name, layer - 1) if name == "resid_post" else Site(name)
            mine = [each for each in self.door.get(site, ()) if each[0] in variants]
            if not mine:
                continue
            if name == "resid_post":
                hidden = self._at_stream(site, mine, hidden, frame)
            else:
                n = len(hidden)
                was = self.clean.starts[name].expand(*self.clean.tokens.ids.shape, -1)[example[:n], column[:n]]
                here = [(owner, edit) for owner, _, edit in mine]
                hidden = hidden + (apply_edits(here, was, frame, site, self.session.shifts) - was)
        return hidden

    def _at_stream(self, base: Site, mine: Sequence[tuple[int, Site, Edit]], x: Tensor, frame: Frame) -> Tensor:
        """Edits of the stream between two layers, or of a site that is computed from it."""
        x = apply_edits([(owner, e) for owner, site, e in mine if site == base], x, frame, base, self.session.shifts)
        for view in sorted({site for _, site, _ in mine} - {base}, key=str):
            here = [(owner, e) for owner, site, e in mine if site == view]
            change, _ = through_view(view, x, here, frame, self.session.shifts)
            x = x if change is None else x + change.view_as(x)
        return x

    def _call(self, hidden: Tensor, layer: int, picked: Tensor | None = None) -> Tensor:
        """Call a layer on the active rows (or those picked) with the arguments of the clean run's call."""
        args, kwargs = self.clean.calls[layer]
        self.session.lead = (1, len(hidden))
        pack = lambda name, value: self._pack(name, value, picked, len(hidden))  # noqa: E731
        rows = slice(len(hidden)) if picked is None else self._metric_places(self._present(layer))
        known = looked_up(
            self.clean.projected[layer], self.examples[rows], self.places[rows], self.unchanged[rows], self.width
        )
        module = self.anatomy.layers[layer].layer
        names = list(inspect.signature(module.forward).parameters)[1 : 1 + len(args)]
        with wired(self.session, [layer]), known:
            out = module(
                hidden[None], *map(pack, names, args), **{name: pack(name, value) for name, value in kwargs.items()}
            )
        out = out[0] if isinstance(out, tuple | list) else out
        return out[0]

    def _pack(self, name: str, value: Any, picked: Tensor | None, n: int) -> Any:
        """An argument of the clean call, for packed rows: per-position tensors gathered, masks and caches dropped."""
        if name in _NOT_GATHERED:
            return value  # ``attend`` replaces them by the clean run's biases of each row
        if name in CACHE_NAMES and self.anatomy.family.counts_from_cache:
            return _Position(self.column[:n] if picked is None else self.column[picked])
        if name in _BEHIND_HEADS and isinstance(value, Tensor):
            rows = value.expand(len(self.clean.tokens), -1, -1, -1)[self.example, :, self.column].transpose(0, 1)
            return (rows[:, :n] if picked is None else rows[:, picked])[None]
        if isinstance(value, Cache) or (isinstance(value, Tensor) and value.ndim == 4):
            return None
        if isinstance(value, tuple | list):
            return type(value)(self._pack(name, v, picked, n) for v in value)
        if isinstance(value, dict):
            return {k: self._pack(name, v, picked, n) for k, v in value.items()}
        if not isinstance(value, Tensor):
            return value
        batch = self.clean.tokens.ids.shape[0]
        if value.ndim >= 2 and value.shape[0] in (1, batch) and value.shape[1] == self.width:
            if id(value) not in self.gathered:
                at = self.example if value.shape[0] == batch else torch.zeros_like(self.example)
                self.gathered[id(value)] = value[at.to(value.device), self.column.to(value.device)][None]
            rows = self.gathered[id(value)]
            if picked is not None:
                return rows[:, picked.to(rows.device)]
            return rows if n == self.total else rows[:, :n]
        if value.ndim == 1 and value.shape[0] == self.width:
            rows = value[self.column.to(value.device)]
            return rows[:n] if picked is None else rows[picked.to(rows.device)]
        return None if name == "attention_mask" else value

    def _metric_frame(self, segments: Sequence[Segment] | None = None) -> Frame:
        segments = self.segments if segments is None else segments
        return Frame(
            [Span(s.variant, s.example, self._metric_token(s), 1, i) for i, s in enumerate(segments)], self.lengths
        )

    def _metric_token(self, segment: Segment) -> int:
        return self.columns[segment.example] - self.first[segment.example]

    def _metric_places(self, segments: Sequence[Segment]) -> Int[np.ndarray, " segment"]:
        """The rows that the metric reads, of the first segments."""
        rows = [self.row0[i] + self._metric_token(s) - s.start for i, s in enumerate(segments)]
        return np.array(rows, dtype=np.int64)

    def _present(self, layer: int) -> list[Segment]:
        return [s for s in self.segments if s.layer <= layer]

    def _last(self, hidden: Tensor, layer: int) -> Tensor:
        """The last layer: all rows give keys and values, only the rows that the metric reads go all the way through."""
        present = self._present(layer)
        picked = self._put(self._metric_places(present))
        if len(picked) < len(hidden):
            self.keys_only = True
            try:
                self._call(hidden, layer)
            except _OnlyKeysAndValues:
                pass
            finally:
                self.keys_only = False
        self.session.frame = self._metric_frame(present)
        self.last_rows = True
        return self._call(hidden[picked], layer, picked)

    def _attend(self, layer: int, module: nn.Module, q, k, v, mask, **how) -> Tensor:
        """Attention of packed rows (1, head, row, d_head): z as (1, row, head, d)."""
        session = self.session
        site = {name: Site(name, layer) for name in INSIDE_ATTENTION}

        def rows(name: str, x: Tensor) -> Tensor:
            return (
                session.touch(site[name], x.transpose(1, 2))[0] if session.wants(site[name]) else x[0].transpose(0, 1)
            )

        if self.last_keys_and_values is None:
            keys, values = rows("k", k), rows("v", v)
            if self.keys_only:
                self.last_keys_and_values = (keys, values)
                raise _OnlyKeysAndValues
        else:
            keys, values = self.last_keys_and_values
        queries = rows("q", q)
        return attend(self._layout(), self.clean, session, layer, module, queries, keys, values, how, self._see_map)[
            None
        ]

    def _see_map(self, bucket: Bucket, maps: Float[Tensor, "segment head query key"]) -> None:
        """Record a map that is measured, at the rows of the metric."""
        of, at = np.nonzero(np.isin(bucket.rows, self._metric_places(self.segments)) & bucket.taken)
        self.maps.append((bucket.rows[of, at], maps[self._put(of), :, self._put(at)]))

    def _layout(self) -> Layout:
        """The active segments sorted into batches of like length, so that padding stays small."""
        key = (self.active, self.last_rows, self.device)
        if key not in self.layouts:
            present = {i: len(s) for i, s in enumerate(self.segments) if self.row0[i] < self.active}
            buckets = [self._bucket(batch) for batch in of_like_length(present)]
            self.layouts.clear()  # rows only ever join: the one before is not met again, and its masks are large
            self.layouts[key] = layout(buckets, len(present) if self.last_rows else self.active, self.device)
        return self.layouts[key]

    def _bucket(self, members: list[int]) -> Bucket:
        segments = [self.segments[i] for i in members]
        length = np.array([len(s) for s in segments])[:, None]
        row0 = np.array([self.row0[i] for i in members])[:, None]
        first = np.array([self.first[s.example] + s.start for s in segments])[:, None]
        examples = np.array([s.example for s in segments])
        column = np.arange(self.width)
        own = (column >= first) & (column < first + length)
        n_clean = self.width * len(self.clean.tokens)
        keys = np.where(own, n_clean + row0 + column - first, examples[:, None] * self.width + column)
        if self.last_rows:
            rows, taken = np.array(members)[:, None], np.ones((len(members), 1), dtype=bool)
            columns = np.array([[self.columns[s.example]] for s in segments])
            spans = [Span(s.variant, s.example, self._metric_token(s), 1, i) for i, s in enumerate(segments)]
        else:
            at = np.arange(length.max())
            taken, inside = at < length, np.minimum(at, length - 1)
            rows, columns = row0 + inside, first + inside
            spans = [Span(s.variant, s.example, s.start, len(s), i * len(at)) for i, s in enumerate(segments)]
        return Bucket(keys, rows, columns, examples, taken, Frame(spans, self.lengths))

    def _measure_site(self, site: Site) -> Tensor:
        """The metric from what a site holds at each segment's row."""
        rows = self._metric_places(self.segments)
        if site.name in MAPS:
            seen, maps = np.concatenate([at for at, _ in self.maps]), torch.cat([x for _, x in self.maps])
            # ``seen`` and ``rows`` hold the same rows, buckets' order against segments' order: sort, then unsort.
            x = maps[self._put(seen.argsort()[rows.argsort().argsort()])]
        else:
            x = self.session.acts[site][0][self._put(rows)]
        self._on(self.anatomy.device, x)
        return self.bound.value(x.to(self.device), self._put(np.array([s.example for s in self.segments])))

    def _measure(self, hidden: Tensor) -> Tensor:
        """The metric from the stream after the last layer."""
        hidden = self._on(self.anatomy.device, hidden)
        example = self._put(np.array([s.example for s in self.segments]))
        if self.bound.columns is None:
            return self._measure_all(hidden, example)
        if not self.last_rows:
            hidden = hidden[self._put(self._metric_places(self.segments))]
        self.session.frame = self._metric_frame()
        vocab = None if self.bound.vocab is None else self.bound.vocab[example]
        if self.bound.site is not None:
            vocab = example[:, None]  # the norm is what is read, so any one entry of the vocabulary will do
        logits = self._logits(hidden[None], vocab)[0]
        read = logits if self.bound.site is None else self.session.acts[self.bound.site][0]
        return self.bound.value(read.to(self.device), example)

    def _logits(self, hidden: Tensor, vocab: Tensor | None) -> Tensor:
        """Logits of (1, row, d_model), with the edits of ``final_norm`` and ``logits``."""
        session, norm, end = self.session, Site("final_norm"), Site("logits")
        session.lead = (hidden.shape[0], hidden.shape[1])
        x = hidden if self.anatomy.final_norm is None else self.anatomy.final_norm(hidden)
        x = session.touch(norm, x) if session.wants(norm) else x
        if session.wants(end):
            logits = session.touch(end, unembed_normed(self.anatomy, x))
            return logits if vocab is None else logits.gather(-1, vocab[None].to(logits.device))
        return unembed_normed(self.anatomy, x) if vocab is None else unembed_normed(self.anatomy, x[0], vocab)[None]

    def _measure_all(self, hidden: Tensor, example: Tensor) -> Tensor:
        """A metric of all positions: those outside a segment are filled in from the clean run, segment by segment."""
        session, frame, values = self.session, self.session.frame, []
        for i, s in enumerate(self.segments):
            first, end = self.first[s.example], s.start + len(s)
            x = self.clean.stream[-1][s.example].to(self.device, copy=True)
            x[first + s.start : first + end] = hidden[self.row0[i] : self.row0[i] + len(s)]
            spans = [
                Span(_NOBODY, s.example, 0, s.start, first),
                Span(s.variant, s.example, s.start, len(s), first + s.start),
                Span(_NOBODY, s.example, end, self.lengths[s.example] - end, first + end),
            ]
            session.frame = Frame([span for span in spans if span.count], self.lengths)
            values.append(self.bound.value(self._logits(x[None], None).to(hidden.device), example[i : i + 1])[0])
        session.frame = frame
        return torch.stack(values)


def _may_change(site: Site, layer: int) -> bool:
    """Whether an edit there can reach what a layer's queries, keys and values are projected from."""
    return site.layer == layer and site.base.name in _BEFORE_PROJECTIONS


def _is_door(site: Site, entry: int) -> bool:
    """Whether an edit applies to the stream as a segment enters, before any layer is called."""
    base, alone = site.base, not site.sources  # several sources are met on the way
    return base.name in ("embed", "pos_embed") or (alone and base == Site("resid_post", entry - 1))
