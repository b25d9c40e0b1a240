"""A run that is cut at chosen places: a gradient from one place reaches others only directly, past no third.

    x_s  ->  leaf_s = x_s without its graph,        d x_t / d leaf_s = the direct derivative

Every written site of a place becomes a leaf of the graph, so the derivative of what stands at a later place, before it
is cut itself, with respect to an earlier leaf goes through everything but the places in between. From one stream to
the next that leaves out what attention and MLPs of the layer in between carry, where these are places too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.localize.circuits.features.places import Place
from caseback.model.anatomy.sites import Site
from caseback.model.running.edits import Edit, Where
from caseback.model.running.frames import Rows
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens

SLOTS = ("q", "k", "v")


@dataclass
class Passed:
    """What passed a site: the tensor before the cut, the leaf after it (None where it is not cut), and its rows."""

    before: Tensor
    leaf: Tensor | None
    rows: Rows

    def by_position(self, x: Tensor, shape: tuple[int, int]) -> Float[Tensor, "row pos *d"]:
        """One row a token as (row, pos, ...), by prompts' own positions; zeros past their ends."""
        whole = x.new_zeros(*shape, *x.shape[1:])
        whole[self.rows.example.to(x.device), self.rows.token.to(x.device)] = x
        return whole

    def by_token(self, x: Float[Tensor, "row pos *d"]) -> Tensor:
        """The reverse."""
        return x[self.rows.example.to(x.device), self.rows.token.to(x.device)]


@dataclass(frozen=True, eq=False)
class Cut(Edit):
    """Note what passes, and put a leaf in its place unless it is only looked at."""

    passed: dict[Site, Passed]
    cuts: bool = True

    def new(self, old: Tensor, where: Where) -> Tensor:
        with torch.enable_grad():
            leaf = old.detach().clone().requires_grad_() if self.cuts else None
        self.passed[where.site] = Passed(old, leaf, where.rows)
        return old if leaf is None else leaf


@dataclass(frozen=True)
class CutRun:
    """One such run.

    Attributes
    ----------
    passed
        What passed each written site, each base that is not written itself, and, of places of heads, what goes into
        attention.
    values
        The metric, with its graph.
    shape
        (row, pos): how many prompts, and the positions of the longest.
    """

    passed: dict[Site, Passed]
    values: Float[Tensor, " row"]
    shape: tuple[int, int]

    @classmethod
    def of(cls, model: Model, tokens: Tokens, metric: Metric, places: Sequence[Place]) -> CutRun:
        """Run prompts, cut at all places."""
        passed: dict[Site, Passed] = {}
        written = {place.written for place in places}
        looked_at = {place.base for place in places} - written
        inside = {Site(slot, place.site.layer) for place in places if place.kind == "head" for slot in SLOTS}
        edits = [Cut(site.name, passed, True, layer=site.layer) for site in written]
        edits += [Cut(site.name, passed, False, layer=site.layer) for site in looked_at | inside]
        _, values = measured(model.anatomy, tokens, metric, edits=edits, grad=True)
        return cls(passed, values, (len(tokens), int(tokens.lengths.max())))

    def direct(
        self, outputs: Sequence[Tensor], weights: Sequence[Tensor], sites: Sequence[Site]
    ) -> dict[Site, Float[Tensor, "row pos *d"]]:
        """Direct derivatives of weighted outputs at sites' leaves; sites that none of them reaches are left out."""
        live = [(out, weight) for out, weight in zip(outputs, weights, strict=True) if out.requires_grad]
        if not live:
            return {}
        leaves = [leaf for site in sites if (leaf := self.passed[site].leaf) is not None]
        outs, grads = [out for out, _ in live], [weight for _, weight in live]
        gradients = torch.autograd.grad(outs, leaves, grads, retain_graph=True, allow_unused=True)
        return {
            site: self.passed[site].by_position(g, self.shape)
            for site, g in zip(sites, gradients, strict=True)
            if g is not None
        }
