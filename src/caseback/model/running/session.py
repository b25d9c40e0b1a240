"""A session: what to do at each site during one forward pass, edit it, then record it.

``wiring`` brings every site of the model here under ``touch(site, x) -> x``; attention calls ``attend``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from caseback.errors import SiteAbsent
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.sites import Codec, Site
from caseback.model.running.attention import mix, native, pattern_of, scores_of, visible
from caseback.model.running.edit import apply_edits
from caseback.model.running.edits import Edit
from caseback.model.running.frames import Frame, Rows

INSIDE_ATTENTION = ("q", "k", "v", "scores", "pattern")

OwnedEdits = Sequence[tuple[int | None, Edit]]


def through_view(
    view: Site,
    x: Float[Tensor, "row *head d"],
    edits: OwnedEdits,
    frame: Frame,
    columns_before: Callable[[Rows], np.ndarray],
    whole: Tensor | None = None,
) -> tuple[Tensor | None, Tensor]:
    """What edits of a registered site add to rows of the site that it writes, and the rows of the site itself.

        decode(edited) - decode(encode(x)),

    so what the codec cannot write stays as it is, and rows without an edit stay the same to the bit. None without an
    edit. ``whole`` is what is encoded, where that is not x alone: the rows of all sources, (row, source, d).
    """
    codec = view.codec
    if view.kind.view is not None and view.kind.view.flat:
        x = x.flatten(1)
    coded = codec.encode(x if whole is None else whole)
    if coded.shape[:-1] != x.shape[:-1]:
        raise SiteAbsent(
            f"{view}: encode gave {tuple(coded.shape)} from {tuple(x.shape)}, expected at most another last size"
        )
    edited = apply_edits(edits, coded, frame, view, columns_before)
    if edited is coded:
        return None, coded
    return written_change(codec, coded, edited, x).to(x.dtype), edited


def written_change(codec: Codec, coded: Tensor, edited: Tensor, x: Tensor) -> Tensor:
    """What a codec writes of other codes in place of those of ``x``; heads of ``x`` side by side where it is flat."""
    change = getattr(codec, "change", None)
    return codec.decode(edited) - codec.decode(coded) if change is None else change(coded, edited, x)


def pulled_through_view(view: Site, g: Tensor, coded: Tensor, x: Tensor) -> Tensor:
    """A gradient at a registered site from that at the site that it writes, by way of how that is written from it."""
    flat = view.kind.view is not None and view.kind.view.flat
    with torch.enable_grad():
        held = coded.detach()
        edited = held.clone().requires_grad_()
        written = written_change(view.codec, held, edited, x.detach().flatten(-2) if flat else x.detach())
    return torch.autograd.grad(written, edited, g.to(written).reshape(written.shape))[0]


class Session:
    """What to do at each site during one forward pass.

    ``beside`` says whether attention that is only looked at may be computed a second time, beside a family's own.

    Attributes
    ----------
    acts
        What was read, as the model had it after edits: (batch, pos, ...), maps as (batch, head, query, key).
    edits
        By site, each with its owner: the variant whose rows it is written into, or None for every variant, as for the
        standing edits of an edited model. These come first (``standing_at`` says at which sites).
    frame
        Layout of the rows that now pass through the model.
    key_start
        Column of the first key that attention sees (not 0 once a sliding window has dropped some).
    lead
        (batch, pos) of the tensors now passing.
    entered
        What entered the module whose output a site is, (row, in), at sites with edits that follow from it.
    """

    beside = True

    def __init__(
        self,
        anatomy: Anatomy,
        frame: Frame,
        lead: tuple[int, int],
        *,
        reads: Sequence[Site] = (),
        edits: Sequence[tuple[int, Site, Edit]] = (),
        columns_before: Sequence[int] | None = None,
        grad: bool = False,
        standing_at: Callable[[Site], bool] = lambda site: site.name != "logits",
    ):
        self.anatomy, self.frame, self.lead, self.grad = anatomy, frame, lead, grad
        self.key_start = 0
        self.reads = set(reads)
        self.edits: dict[Site, list[tuple[int | None, Edit]]] = {}
        for site, edit in anatomy.standing:
            if standing_at(site):
                self.edits.setdefault(site, []).append((None, edit))
        for owner, site, edit in edits:
            self.edits.setdefault(site, []).append((owner, edit))
        self.views: dict[Site, list[Site]] = {}
        for site in sorted({s for s in (*self.reads, *self.edits) if s.kind.view}, key=str):
            self.views.setdefault(site.base, []).append(site)
        self.sources = {site for views in self.views.values() for view in views for site in view.sources}
        self.held: dict[Site, Tensor] = {}
        self.owing = {view.written for view in self.edits if view.written != view.base}
        self.owed: dict[Site, Tensor] = {}
        self.columns_before = None if columns_before is None else np.array(columns_before)
        self.acts: dict[Site, Tensor] = {}
        self.entered: dict[Site, Tensor] = {}
        self.raw: dict[Site, Tensor] = {}
        self.reached: set[Site] = set()

    def wants(self, site: Site) -> bool:
        own = site in self.reads or site in self.edits
        return own or site in self.views or site in self.owing or site in self.sources

    def edited(self, site: Site) -> bool:
        """Whether an edit is made at the site, or at one that is computed from it."""
        own = site in self.edits or site in self.owing
        return own or any(view in self.edits for view in self.views.get(site, ()))

    def changes(self, site: Site) -> bool:
        """Whether the site must be on the path of the computation, not merely looked at."""
        return self.edited(site) or (self.grad and site in self.reads)

    def shifts(self, rows: Rows) -> np.ndarray:
        """Columns of the keys before each row's prompt."""
        if self.columns_before is None:
            return np.zeros(len(rows), dtype=np.int64)
        return self.columns_before[rows.at[1]] - self.key_start

    def layout(self, width: int, keys: bool) -> Frame:
        """The layout of a tensor of ``width`` positions; keys may reach further back than the rows now passing."""
        return self.frame

    def touch(self, site: Site, x: Tensor, *, keys: bool = False, visible: Tensor | None = None) -> Tensor:
        """Edit and record (batch, pos, ...); returns the very ``x`` where nothing is edited."""
        self.reached.add(site)
        if site in self.owed:
            x = x + self.owed.pop(site).view_as(x)
        if site in self.edits:
            frame = self.layout(x.shape[1], keys)
            rows, entered = x.flatten(0, 1), self.entered.pop(site, None)
            x = apply_edits(self.edits[site], rows, frame, site, self.shifts, entered, visible).view_as(x)
        for view in self.views.get(site, ()):
            x = self._through(view, x, self.layout(x.shape[1], keys))
        if site in self.reads:
            self.acts[site] = x
        if site in self.sources:
            self.held[site] = x
        return x

    def _through(self, view: Site, x: Tensor, frame: Frame) -> Tensor:
        """Edit and record a site that is computed from this one."""
        self.reached.add(view)
        rows, whole = x.flatten(0, 1), self._together(view, x) if view.sources else None
        change, coded = through_view(view, rows, self.edits.get(view, ()), frame, self.shifts, whole)
        if view in self.reads:
            self.acts[view] = coded.unflatten(0, x.shape[:2])
        if change is not None and view.written == view.base:
            return x + change.view_as(x)
        if change is not None:
            self.owed[view.written] = self.owed.get(view.written, 0) + change
        return x

    def _together(self, view: Site, x: Tensor) -> Float[Tensor, "row source d"]:
        """The rows of all sites that a site is computed from, of which x is the last that the pass reaches."""
        parts = []
        for source in view.sources:
            rows = (x if source == view.base else self._passed(view, source)).flatten(0, 1).flatten(1).to(x.device)
            # rows that joined a sweep's pass since then have no edit here and are not measured here
            parts.append(torch.nn.functional.pad(rows, (0, 0, 0, x.shape[0] * x.shape[1] - len(rows))))
        return torch.stack(parts, 1)

    def _passed(self, view: Site, source: Site) -> Tensor:
        if source not in self.held:
            raise SiteAbsent(f"{view} is computed from {source} too, which this pass did not reach before {view.base}")
        return self.held[source]

    def touch_map(self, site: Site, x: Tensor, mask: Tensor | None) -> Tensor:
        """The same for (batch, head, query, key), whose keys the mask lets queries see or not."""
        seen = visible(x, mask) if site in self.edits else None
        rows = None if seen is None else seen.transpose(1, 2).flatten(0, 1)
        x = self.touch(site, x.transpose(1, 2), visible=rows).transpose(1, 2)
        if site in self.reads:
            self.acts[site] = x
        return x

    def attend(self, layer: int, module: nn.Module, q, k, v, mask, **how: Any) -> Tensor:
        """Attention of one layer, with the edits and reads of its queries, keys, values, scores and pattern."""
        return self.mixed(layer, module, *self.at_heads(layer, q, k, v), mask, **how)

    def at_heads(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, edited and recorded."""
        sites = {name: Site(name, layer) for name in INSIDE_ATTENTION}
        heads = lambda name, x: self.touch(sites[name], x.transpose(1, 2), keys=name != "q").transpose(1, 2)  # noqa: E731
        q, k, v = (heads(n, x) if self.wants(sites[n]) else x for n, x in (("q", q), ("k", k), ("v", v)))
        if self.grad:
            q, k, v = self._on_path(sites, q, k, v)
        return q, k, v

    def mixed(self, layer: int, module: nn.Module, q, k, v, mask, **how: Any) -> Tensor:
        """z, by the model's own function unless scores or pattern are on the path."""
        sites = {name: Site(name, layer) for name in INSIDE_ATTENTION}
        maps = [sites["scores"], sites["pattern"]]
        theirs = native(module)
        if any(self.changes(s) for s in maps):
            theirs = None
        z = None if theirs is None else theirs(module, q, k, v, mask, **how)[0]
        if z is not None and not any(self.wants(s) for s in maps):
            return z
        scores = scores_of(q, k, mask, **how)
        if self.wants(sites["scores"]):
            scores = self.touch_map(sites["scores"], scores, mask)
        if z is not None and not self.wants(sites["pattern"]):
            return z
        pattern = pattern_of(scores, module, **how).to(v.dtype)  # MPT adds its bias in float32
        if self.wants(sites["pattern"]):
            pattern = self.touch_map(sites["pattern"], pattern, mask)
        return mix(pattern, v) if z is None else z

    def _on_path(self, sites: dict[str, Site], *tensors: Tensor) -> list[Tensor]:
        """Let what was recorded be what goes on, so that it has a gradient."""
        out = []
        for name, x in zip(("q", "k", "v"), tensors, strict=True):
            out.append(self.acts[sites[name]].transpose(1, 2) if sites[name] in self.reads else x)
        return out

    def finish(self) -> None:
        """Refuse a pass that did not reach every site asked for."""
        missed = [s for s in (*self.reads, *self.edits) if s not in self.reached]
        if missed:
            raise SiteAbsent(
                f"the forward pass of this model ({self.anatomy.model_type}) did not reach "
                f"{', '.join(map(str, sorted(set(missed), key=str)))}: its modules are not used as its anatomy says"
            )
