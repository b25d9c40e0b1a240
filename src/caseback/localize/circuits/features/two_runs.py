"""Two runs at chosen places: what stands at each, and the metric's gradient there, averaged along a way or not.

    attribution             g = d metric / d x at the base run
    integrated gradients    g = sum_k w_k d metric / d x at x + a_k (x' - x), the other places free

x' is what stands at a site once all chosen nodes that write there carry the other run's values. Of features and error
together that is the other run's own state. Each site has a way of its own, on which only this site is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.localize.circuits.features.places import Place, groups_of
from caseback.localize.inputs.gradients.quadrature import RULES
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.prompts.on_the_way import at_shares, gradients_on_the_way, over_points
from caseback.model.prompts.per_token import aligned
from caseback.model.prompts.run_pair import RunPair
from caseback.model.running.edits import Add, Edit
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens


@dataclass(frozen=True)
class TwoRuns:
    """The run that is patched and the one that patches come from, at some places, by prompts' own positions.

    Attributes
    ----------
    model, places
        The model; the places.
    pair
        The two runs.
    """

    model: Model
    places: Sequence[Place]
    pair: RunPair

    @property
    def tokens(self) -> Tokens:
        """The prompts of the run that is patched."""
        return self.pair.base.tokens

    @property
    def metric(self) -> Metric:
        """The metric of these prompts."""
        return self.pair.metric

    def base(self, site: Site) -> Float[Tensor, "batch pos *d"]:
        """What stands at a site of the run that is patched."""
        return aligned(self.pair.base[site.key].detach(), self.tokens)

    def source(self, site: Site) -> Float[Tensor, "batch pos *d"]:
        """What stands there in the other run."""
        assert self.pair.source is not None
        return aligned(self.pair.source[site.key].detach(), self.pair.source.tokens)

    def change(self, place: Place) -> Float[Tensor, "batch pos unit size"]:
        """What a place's nodes change by; zeros past a prompt's end."""
        here = at_least_float32(place.value(self.base(place.base)))
        change = -here
        if self.pair.source is not None:
            change = at_least_float32(place.value(self.source(place.base))) - here
        past = torch.arange(change.shape[1]) >= self.tokens.lengths.cpu()[:, None]
        return change.masked_fill(past.to(change.device)[..., None, None], 0.0)

    def written(self, places: Sequence[Place]) -> Float[Tensor, "batch pos *d"]:
        """What all nodes of places that write one site add there together."""
        parts = [place.written_by(self.change(place), self.base(place.base)) for place in places]
        return torch.stack(parts).sum(0)

    def with_all_changed(self) -> Float[Tensor, "group batch"]:
        """The metric where all nodes of one site carry the other run's values, less the base run's: each site's."""
        groups = groups_of(self.places)
        edits = [_add(site, self.written(places)) for site, places in groups.items()]
        swept = self.model.sweep(self.tokens, edits, self.metric)
        return torch.as_tensor(swept.values) - self.pair.base_metric.detach().cpu().to(torch.float64)

    def gradients(self) -> dict[Site, Tensor]:
        """The metric's gradient at each written site of the run that is patched."""
        at = list(groups_of(self.places))
        run = self.pair.gradients(at)
        return {site: aligned(run[site.key], self.tokens) for site in at}

    def averaged(self, steps: int, rule: str) -> dict[Site, Tensor]:
        """The gradient at each written site, averaged over points of that site's own way."""
        points, weights = (torch.as_tensor(part).tolist() for part in RULES[rule](steps))
        return {site: self._along(site, group, points, weights) for site, group in groups_of(self.places).items()}

    def _along(self, site: Site, places: Sequence[Place], points: list[float], weights: list[float]) -> Tensor:
        """Points side by side."""
        change, tokens = self.written(places), self.tokens
        put = lambda shares: _add(site, at_shares(change, shares))  # noqa: E731
        total = torch.zeros_like(at_least_float32(change))
        for part, run, gradients in gradients_on_the_way(self.model, tokens, self.metric, points, put, [site]):
            total += over_points(aligned(gradients[site.key], run.tokens), weights[part])
        return total


def _add(site: Site, value: Tensor) -> Edit:
    return Add(site.name, value, layer=site.layer)
