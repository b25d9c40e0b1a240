"""Direct edges between nodes: products of gradients, many downstream nodes a backward pass (PRIMER 3.2.29).

    E(u -> d) = d metric / d d . (d d / d u) . (u(x') - u(x))        past no third place

The metric's gradient at d is the one that its effect was found with. Each downstream node has a copy of its prompt in
one batch, and a weight on what stands at its place, before that place is cut: for a feature its row of the encoder,
for an error or a head the metric's gradient itself. One backward pass then has the derivatives of all copies at all
upstream places, and only pairs of one prompt are multiplied. An edge into a head goes through its query, key or value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.localize.circuits.features.cut_run import SLOTS, CutRun
from caseback.localize.circuits.features.entries import Entries
from caseback.localize.circuits.features.places import Place, groups_of
from caseback.localize.circuits.features.two_runs import TwoRuns
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site

WHOLE = -1
"""As a slot: the node itself, not one of a head's inputs. As a downstream node: the metric."""


@dataclass(frozen=True)
class Edges:
    """Pairs of entries by their numbers, with what each edge carries.

    Attributes
    ----------
    upstream, downstream
        Numbers of entries; downstream -1 for the metric.
    slot
        0, 1, 2 for a head's query, key and value; -1 where there is none.
    effect
        What the metric would change by, to first order.
    """

    upstream: Int[Tensor, " edge"]
    downstream: Int[Tensor, " edge"]
    slot: Int[Tensor, " edge"]
    effect: Float[Tensor, " edge"]

    @classmethod
    def joined(cls, parts: Sequence[Edges]) -> Edges:
        """Several, one after the other."""
        none = torch.zeros(0, dtype=torch.long)
        columns = [[getattr(part, f.name) for part in parts] for f in fields(cls)]
        empty = (none, none, none, torch.zeros(0, dtype=torch.float64))
        return cls(*(torch.cat([first, *column]) for first, column in zip(empty, columns, strict=True)))


@dataclass(frozen=True)
class EdgeFinder:
    """The nodes of some prompts, and what is needed to find the edges between them.

    Attributes
    ----------
    runs
        The two runs.
    entries
        Nodes at positions of prompts.
    gradients
        The metric's gradient at each written site, (batch, pos, ...), as effects were found with.
    """

    runs: TwoRuns
    entries: Entries
    gradients: dict[Site, Tensor]

    def edges(self, above: float, *, progress: bool = False) -> Edges:
        """All edges larger in size than ``above``: into the metric, and between nodes."""
        tokens = self.runs.tokens
        at_once = max(1, limit("gradient_tokens", tokens.ids.device) // tokens.shape[1])
        first = self.runs.places[0].written
        # nothing stands upstream of the first site
        later = torch.tensor([place.written != first for place in self.runs.places])
        targets = later[self.entries.place].nonzero()[:, 0]
        parts = [*self._into_metric(above)]
        starts = range(0, len(targets), at_once)
        for start in progress_bar(starts, "edges between nodes", unit="batch", show=progress):
            parts += self._into(targets[start : start + at_once], above)
        return Edges.joined(parts)

    def _into_metric(self, above: float) -> list[Edges]:
        run = CutRun.of(self.runs.model, self.runs.tokens, self.runs.metric, self.runs.places)
        derivatives = run.direct([run.values], [torch.ones_like(run.values)], list(groups_of(self.runs.places)))
        rows = torch.arange(len(self.runs.tokens))
        return self._pairs(derivatives, rows, torch.full_like(rows, WHOLE), WHOLE, above)

    def _into(self, targets: Int[Tensor, " row"], above: float) -> list[Edges]:
        """Edges into some nodes, each with a copy of its prompt."""
        prompts = self.entries.prompt[targets]
        copies = self.runs.tokens[prompts]
        run = CutRun.of(self.runs.model, copies, self.runs.metric.of_rows(self.runs.tokens, prompts), self.runs.places)
        sites = list(groups_of(self.runs.places))
        weights: dict[Site, Tensor] = {}
        heads: dict[Site, Tensor] = {}
        for index, place in enumerate(self.runs.places):
            mine = (self.entries.place[targets] == index).nonzero()[:, 0]
            if len(mine):
                into = heads if place.kind == "head" else weights
                seen = run.passed[place.base]
                whole = into.setdefault(place.base, seen.by_position(torch.zeros_like(seen.before), run.shape))
                whole[mine, self.entries.pos[targets[mine]]] += self._weights(place, targets[mine]).to(whole)
        parts = self._through(run, weights, sites, prompts, targets, WHOLE, above)
        if heads:
            inputs = [Site(slot, site.layer) for site in heads for slot in SLOTS]
            outs = [run.passed[site].before for site in heads]
            held = [run.passed[site].by_token(weight) for site, weight in heads.items()]
            inner = torch.autograd.grad(outs, [run.passed[s].before for s in inputs], held, retain_graph=True)
            by_slot = dict(zip(inputs, inner, strict=True))
            for number, slot in enumerate(SLOTS):
                mine = {s: run.passed[s].by_position(g, run.shape) for s, g in by_slot.items() if s.name == slot}
                parts += self._through(run, mine, sites, prompts, targets, number, above)
        return parts

    def _through(
        self,
        run: CutRun,
        weights: dict[Site, Tensor],
        sites: Sequence[Site],
        prompts: Tensor,
        targets: Tensor,
        slot: int,
        above: float,
    ) -> list[Edges]:
        outputs = [run.passed[site].before for site in weights]
        at = [run.passed[site].by_token(weight) for site, weight in weights.items()]
        return self._pairs(run.direct(outputs, at, sites), prompts, targets, slot, above)

    def _weights(self, place: Place, targets: Tensor) -> Float[Tensor, "row d"]:
        """What is weighted at the targets' base: the metric's gradient at them, through how they are read there."""
        prompt, pos, unit = (getattr(self.entries, name)[targets] for name in ("prompt", "pos", "unit"))
        x = self.runs.base(place.base)[prompt, pos]
        pulled = place.pulled(self.gradients[place.written][prompt, pos], x)
        return place.read_by(_alone(pulled, unit), x)

    def _pairs(
        self, derivatives: dict[Site, Tensor], prompts: Tensor, targets: Tensor, slot: int, above: float
    ) -> list[Edges]:
        """Edges of rows (copies of prompts) with the upstream entries of their prompts, place by place."""
        parts = []
        for index, place in enumerate(self.runs.places):
            if place.written not in derivatives:
                continue
            sources, writes = self._sources[index]
            row, source = (self.entries.prompt[sources] == prompts[:, None]).nonzero(as_tuple=True)
            slopes = derivatives[place.written]
            at_once = max(1, limit("contraction_numbers", slopes.device) // writes.shape[1])
            for some in torch.arange(len(row)).split(at_once):
                r, s = row[some], source[some]
                there = at_least_float32(slopes[r, self.entries.pos[sources[s]]]).flatten(1)
                effect = (there * writes[s].to(there)).sum(1).cpu().double()
                large = effect.abs() > above
                parts.append(
                    Edges(sources[s[large]], targets[r[large]], torch.full((int(large.sum()),), slot), effect[large])
                )
        return parts

    @cached_property
    def _sources(self) -> list[tuple[Tensor, Tensor]]:
        """Of each place the numbers of its entries, and what each one's change adds at the site that it writes."""
        sources = []
        for index, place in enumerate(self.runs.places):
            mine = (self.entries.place == index).nonzero()[:, 0]
            prompt, pos, unit = (getattr(self.entries, name)[mine] for name in ("prompt", "pos", "unit"))
            x, change = self.runs.base(place.base)[prompt, pos], self.runs.change(place)[prompt, pos]
            sources.append((mine, at_least_float32(place.written_by(_alone(change, unit), x)).flatten(1)))
        return sources


def _alone(values: Float[Tensor, "row unit size"], unit: Int[Tensor, " row"]) -> Float[Tensor, "row unit size"]:
    """The same with all but one unit of each row set to zero."""
    rows = torch.arange(len(values), device=values.device)
    alone = torch.zeros_like(values)
    alone[rows, unit.to(values.device)] = values[rows, unit.to(values.device)]
    return alone
