"""A session: what to do at each site during one forward pass, edit it, then record it.

``wiring`` brings every site of the model here under ``touch(site, x) -> x``; attention calls ``attend``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from caseback.errors import SiteAbsent
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.sites import Site
from caseback.model.running.attention import mix, native, pattern_of, scores_of
from caseback.model.running.edit_rows import apply_edits
from caseback.model.running.edits import Edit
from caseback.model.running.frames import Frame, Rows

INSIDE_ATTENTION = ("q", "k", "v", "scores", "pattern")


class Session:
    """What to do at each site during one forward pass.

    Attributes
    ----------
    acts
        What was read, as the model had it after edits: (batch, pos, ...), maps as (batch, head, query, key).
    frame
        Layout of the rows now passing.
    key_start
        Column of the first key that attention sees (not 0 once a sliding window has dropped some).
    lead
        (batch, pos) of the tensors now passing.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        frame: Frame,
        lead: tuple[int, int],
        *,
        reads: Sequence[Site] = (),
        edits: Sequence[tuple[int, Site, Edit]] = (),
        columns_before: Tensor | None = None,
        grad: bool = False,
    ):
        self.anatomy, self.frame, self.lead, self.grad = anatomy, frame, lead, grad
        self.key_start = 0
        self.reads = set(reads)
        self.edits: dict[Site, list[tuple[int, Edit]]] = {}
        for owner, site, edit in edits:
            self.edits.setdefault(site, []).append((owner, edit))
        self.columns_before = columns_before
        self.acts: dict[Site, Tensor] = {}
        self.raw: dict[Site, Tensor] = {}
        self.reached: set[Site] = set()

    def wants(self, site: Site) -> bool:
        return site in self.reads or site in self.edits

    def changes(self, site: Site) -> bool:
        """Whether the site must be on the path of the computation, not merely looked at."""
        return site in self.edits or (self.grad and site in self.reads)

    def shifts(self, rows: Rows) -> Tensor:
        if self.columns_before is None:
            return torch.zeros_like(rows.example)
        return self.columns_before[rows.example] - self.key_start

    def layout(self, width: int, keys: bool) -> Frame:
        """The layout of a tensor of so many positions; keys may reach further back than the rows now passing."""
        return self.frame

    def touch(self, site: Site, x: Tensor, *, keys: bool = False) -> Tensor:
        """Edit and record (batch, pos, ...); returns the very ``x`` where nothing is edited."""
        self.reached.add(site)
        if site in self.edits:
            frame = self.layout(x.shape[1], keys)
            x = apply_edits(self.edits[site], x.flatten(0, 1), frame, site, self.shifts).view_as(x)
        if site in self.reads:
            self.acts[site] = x
        return x

    def touch_map(self, site: Site, x: Tensor) -> Tensor:
        """The same for (batch, head, query, key)."""
        x = self.touch(site, x.transpose(1, 2)).transpose(1, 2)
        if site in self.reads:
            self.acts[site] = x
        return x

    def attend(self, layer: int, module: nn.Module, q, k, v, mask, **how: Any) -> Tensor:
        """Attention of one layer, by the model's own function unless scores or pattern are on the path."""
        sites = {name: Site(name, layer) for name in INSIDE_ATTENTION}
        heads = lambda name, x: self.touch(sites[name], x.transpose(1, 2), keys=name != "q").transpose(1, 2)  # noqa: E731
        q, k, v = (heads(n, x) if self.wants(sites[n]) else x for n, x in (("q", q), ("k", k), ("v", v)))
        if self.grad:
            q, k, v = self._on_path(sites, q, k, v)
        maps = [sites["scores"], sites["pattern"]]
        theirs = native(module)
        if any(self.changes(s) for s in maps):
            theirs = None
        z = None if theirs is None else theirs(module, q, k, v, mask, **how)[0]
        if z is not None and not any(self.wants(s) for s in maps):
            return z
        scores = scores_of(q, k, mask, **how)
        if self.wants(sites["scores"]):
            scores = self.touch_map(sites["scores"], scores)
        if z is not None and not self.wants(sites["pattern"]):
            return z
        pattern = pattern_of(scores, module, **how).to(v.dtype)  # MPT adds its bias in float32
        if self.wants(sites["pattern"]):
            pattern = self.touch_map(sites["pattern"], pattern)
        return mix(pattern, v) if z is None else z

    def _on_path(self, sites: dict[str, Site], *tensors: Tensor) -> list[Tensor]:
        """Let what was recorded be what goes on, so that it has a gradient."""
        out = []
        for name, x in zip(("q", "k", "v"), tensors, strict=True):
            out.append(self.acts[sites[name]].transpose(1, 2) if sites[name] in self.reads else x)
        return out

    def finish(self) -> None:
        """Refuse silence: every site asked for must have been reached."""
        missed = [s for s in (*self.reads, *self.edits) if s not in self.reached]
        if missed:
            raise SiteAbsent(
                f"the forward pass of this model ({self.anatomy.model_type}) did not reach "
                f"{', '.join(map(str, sorted(set(missed), key=str)))}: its modules are not used as its anatomy says"
            )
