"""Gradients at heads' own inputs, at some points of a way, as few numbers: a mean at the projections' width.

    sum_t w_t pulled_t = F g - sum_t u_t a_t,    F = M gamma W,  u_t = x_t M / (s_t sqrt(d)),  f_t = w_t / s_t,
                         g = sum_t f_t g_t,      a_t = f_t g_t . F^T u_t

A gradient g_t after a projection W goes back through W and through the norm at x_t, whose denominator s_t moves too.
F does not depend on the point, so that gradients are averaged before it; what moves s_t is along one vector a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.localize.circuits.machinery.writes import Part, of_part
from caseback.model.anatomy.dense import Projection, weight_matrix
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.prompts.on_the_way import over_points
from caseback.model.running.model import Model
from caseback.model.running.run import Run

SLOTS = {"q_in": "q", "k_in": "k", "v_in": "v"}


@dataclass(frozen=True)
class Slope:
    """A run's gradients at its readers, heads' still at their projections' outputs.

    Attributes
    ----------
    weights
        How much each point counts; the runs have a row for each point of each prompt, those of a prompt side by side.
    run, gradients
        What was read, and the gradients there.
    """

    weights: tuple[float, ...]
    run: Run
    gradients: Run

    def averaged(self, site: Site, part: Part) -> Float[Tensor, "batch pos d_model"]:
        """A gradient, each point by its weight."""
        return self.over_points(at_least_float32(self.of_part(self.gradients, site, part)))

    def rows(self, part: Part) -> Part:
        """Some prompts and columns as rows of the runs."""
        prompts, columns = part
        times = len(self.weights)
        return part if prompts == slice(None) else (slice(prompts.start * times, prompts.stop * times), columns)

    def of_part(self, run: Run, site: Site, part: Part) -> Tensor:
        """What one of the runs has of some prompts and columns."""
        return of_part(run[site.name, site.layer], self.rows(part))

    def over_points(self, x: Float[Tensor, "row *dims"]) -> Float[Tensor, "batch *dims"]:
        """The weighted sum over each prompt's points."""
        return x if self.weights == (1.0,) else over_points(x, self.weights)


class Pulled(NamedTuple):
    """Gradients at the inputs of a layer's heads, their queries, keys and values in this order.

    Attributes
    ----------
    fixed
        (reader, batch, pos, d_model) F g.
    unit, along
        (batch, point, pos, d_model) u and (batch, point, pos, reader) a, None where no norm's denominator moves.
    """

    fixed: Tensor
    unit: Tensor | None = None
    along: Tensor | None = None


class Streams:
    """What heads of all layers read at the points of some slopes, as u and f."""

    def __init__(self, model: Model, slopes: Sequence[Slope], part: Part):
        self.model, self.slopes, self.part = model, slopes, part
        layers = model.anatomy.layers
        self.norms = [None if p.attn_norm is None else model.anatomy.norms[p.attn_norm] for p in layers]
        self.shared = [all(_one_stream(s.run, layer) for s in slopes) for layer in range(len(layers))]
        self._read_by = [self._read(slope) for slope in slopes]

    def _read(self, slope: Slope) -> dict[int, tuple[Tensor, ...]]:
        """Of each layer u by rows and by points, and f; of layers with like norms on one device all at once."""
        kinds: dict[tuple[bool, float, torch.device], list[int]] = {}
        for layer, norm in enumerate(self.norms):
            if norm is not None and self.shared[layer]:
                kinds.setdefault((norm.centred, norm.eps, slope.run["q_in", layer].device), []).append(layer)
        units: dict[int, tuple[Tensor, ...]] = {}
        for layers in kinds.values():
            norm = self.norms[layers[0]]
            assert norm is not None
            x = torch.stack([slope.of_part(slope.run, Site("q_in", layer), self.part)[:, :, 0] for layer in layers])
            unit, scale = norm.unit(x)
            weights = scale.new_tensor(slope.weights).repeat(x.shape[1] // len(slope.weights))
            factor = (weights[:, None, None] / scale).unsqueeze(-1)
            each = unit.flatten(1, 2), unit.unflatten(1, (-1, len(slope.weights))), factor
            units |= dict(zip(layers, zip(*(x.unbind() for x in each), strict=True), strict=True))
        return units

    def pulled(self, layer: int) -> Pulled:
        """The gradients at one layer's heads."""
        if not self.shared[layer]:
            return Pulled(torch.cat([self._one_by_one(Site(name, layer)) for name in SLOTS]))
        parts = self.model.anatomy.layers[layer]
        projections = [(Site(name, layer), getattr(parts, slot)) for name, slot in SLOTS.items()]
        # heads' values may be wider than their queries and keys
        widths = dict.fromkeys(p.rows.shape[1] for _, p in projections)
        pulled = [self._of_one_width(layer, [x for x in projections if x[1].rows.shape[1] == w]) for w in widths]
        if len(pulled) == 1:
            return pulled[0]
        along = [p.along for p in pulled if p.along is not None]
        return Pulled(torch.cat([p.fixed for p in pulled]), pulled[0].unit, torch.cat(along, -1) if along else None)

    def _one_by_one(self, site: Site) -> Float[Tensor, "reader batch pos d_model"]:
        """Where heads read streams of their own, as edits make them: pulled back each at its own."""
        total: Tensor | None = None
        for slope in self.slopes:
            pulled = slope.run.pulled(site, slope.gradients[site.name, site.layer], slope.rows(self.part))
            mean = slope.over_points(at_least_float32(pulled))
            total = mean if total is None else total + mean
        assert total is not None
        return total.permute(2, 0, 1, 3)

    def _of_one_width(self, layer: int, read: Sequence[tuple[Site, Projection]]) -> Pulled:
        """Queries, keys and values that are equally wide."""
        norm = self.norms[layer]
        weights = [at_least_float32(p.by_head(weight_matrix(p.module))) for _, p in read]
        means, units, alongs = [], [], []
        for slope, known in zip(self.slopes, self._read_by, strict=True):
            each = [p.by_head(slope.of_part(slope.gradients, site, self.part).flatten(2)) for site, p in read]
            g = at_least_float32(torch.cat(each, 2))
            if norm is None:
                means.append(slope.over_points(g))
                continue
            rows, unit, factor = known[layer]
            g = g * factor
            means.append(g if len(slope.weights) == 1 else g.unflatten(0, unit.shape[:2]).sum(1))
            units.append(unit)
            if len(self.slopes) > 1 or len(slope.weights) > 1:
                scaled = rows * norm.gamma.to(rows)
                moved = torch.cat([torch.mm(scaled, w.flatten(1)) for w in weights], 1)
                alongs.append((moved.view(g.shape) * g).sum(-1).view(*unit.shape[:3], -1))
        mean = sum(means[1:], means[0])
        batch, pos, n_readers, _ = mean.shape
        mean = mean.flatten(0, 1).transpose(0, 1)
        fixed = mean.new_empty(n_readers, batch * pos, self.model.d_model)
        start = 0
        for weight in weights:
            stop = start + weight.shape[1]
            torch.bmm(mean[start:stop], weight.permute(1, 2, 0), out=fixed[start:stop])
            start = stop
        if norm is None:
            return Pulled(fixed.view(n_readers, batch, pos, -1))
        fixed *= norm.gamma.to(fixed)
        if not alongs:  # at one point a is as well what F g has of u
            ((rows, unit, _),) = (known[layer] for known in self._read_by)
            alongs = [torch.bmm(fixed.transpose(0, 1), rows.unsqueeze(-1)).view(batch, 1, pos, n_readers)]
        if norm.centred:
            fixed -= fixed.mean(-1, keepdim=True)
        joined = (x[0] if len(x) == 1 else torch.cat(x, 1) for x in (units, alongs))
        return Pulled(fixed.view(n_readers, batch, pos, -1), *joined)


def _one_stream(run: Run, layer: int) -> bool:
    """Whether all heads of a layer were shown one stream: a stride of 0, and the same for queries, keys and values."""
    each = [run[name, layer] for name in SLOTS]
    alone = all(x.shape[2] == 1 or x.stride(2) == 0 for x in each)
    return alone and len({x.data_ptr() for x in each}) == 1
