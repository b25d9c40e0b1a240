"""Neurons by groups of tokens: what each does at tokens of a kind, against what it does at all.

    n_g,  S_gu = sum over g of a_u = (G^T A)_gu,  and the same of a_u^2 and of [a_u > 0]

One product a statistic: nothing of the size of tokens x neurons x groups is formed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import xarray as xr

from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.stream.tables.dataset import dataset, mean_and_variance
from caseback.stream.tables.site_shapes import above_zero, in_slices, layered, shape_of
from caseback.stream.tables.table import Seen, State, Table
from caseback.stream.tables.token_groups import group_matrix, group_names


@dataclass(frozen=True)
class NeuronGroups(Table):
    """Means, variances and firings of every neuron by groups of tokens.

    Attributes
    ----------
    site
        A layered site of one number per unit.
    groups
        Which groups of tokens; see ``token_groups``.
    skip
        So many tokens at each row's beginning are left out: the first one's activations are often of another size.
    """

    site: str = "mlp_post"
    groups: tuple[str, ...] = ("any", "position", "kinds", "previous_kinds", "repeats")
    skip: int = 0

    name: ClassVar[str] = "neuron_groups"
    rules: ClassVar[Mapping[str, str]] = dict.fromkeys(("n", "sums", "squares", "firings"), "sum")

    def sites(self, anatomy: Anatomy) -> list[Site]:
        return layered(anatomy, self.site, self.name)

    def empty(self, model: Model) -> State:
        sites, n_groups = self.sites(model.anatomy), len(group_names(self.groups))
        shape = (len(sites), n_groups, *shape_of(model, sites, self.name))
        zeros = {name: torch.zeros(shape, dtype=torch.float64) for name in ("sums", "squares", "firings")}
        return {"n": torch.zeros(n_groups, dtype=torch.int64), **zeros}

    def add(self, state: State, seen: Seen) -> None:
        sites = self.sites(seen.model.anatomy)
        groups = group_matrix(seen.marks, self.groups, seen.wide(sites[0]).dtype)
        groups *= (seen.marks.position >= self.skip)[:, None]
        state["n"] += groups.sum(0).long()
        for i, site in enumerate(sites):
            for some, x in in_slices(seen.wide(site)):
                own = groups[some].T
                state["sums"][i] += own @ x
                state["squares"][i] += own @ x.square()
                state["firings"][i] += own @ above_zero(x)

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """``mean``, ``variance`` and ``fires`` (the share above 0) by group, and ``n``, the group's tokens."""
        sites = self.sites(model.anatomy)
        n = state["n"].double()
        dims = ("layer", "group", *sites[0].kind.dims[1:])
        mean, variance = mean_and_variance(state["sums"], state["squares"], n[:, None])
        arrays = {
            "mean": (mean, dims),
            "variance": (variance, dims),
            "fires": (state["firings"] / n[:, None], dims),
            "n": (state["n"], ("group",)),
        }
        coords = {"layer": [site.layer for site in sites], "group": group_names(self.groups)}
        return dataset(model, arrays, coords, site=self.site, **attrs)
