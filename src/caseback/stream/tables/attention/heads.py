"""Moments of what heads write from: the mean, for mean ablation and function vectors, and E[z z^T].

    mean_h = E[z_h],  second_h = E[z_h z_h^T],  mean_hg = E[z_h | token in group g],  by default bins of positions

Of the write z W_O they give the rest: E||z W_O||^2 = tr(W_O^T E[z z^T] W_O).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import xarray as xr

from caseback.errors import SiteAbsent
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.stream.tables.dataset import dataset
from caseback.stream.tables.site_shapes import layered, shape_of
from caseback.stream.tables.table import Seen, State, Table
from caseback.stream.tables.token_groups import group_matrix, group_names


@dataclass(frozen=True)
class HeadMoments(Table):
    """Means and second moments of every head's z.

    Attributes
    ----------
    site
        A layered site of one vector per head.
    groups
        Groups of tokens that have a mean of their own; see ``token_groups``.
    """

    site: str = "z"
    groups: tuple[str, ...] = ("position",)

    name: ClassVar[str] = "head_moments"
    rules: ClassVar[Mapping[str, str]] = dict.fromkeys(("n", "n_group", "sums", "group_sums", "products"), "sum")

    def sites(self, anatomy: Anatomy) -> list[Site]:
        sites = layered(anatomy, self.site, self.name)
        if len(sites[0].kind.dims) != 3:
            raise SiteAbsent(f"no table {self.name} of {self.site!r}: expected a site of heads, such as 'z'")
        return sites

    def empty(self, model: Model) -> State:
        sites, n_groups = self.sites(model.anatomy), len(group_names(self.groups))
        heads, width = shape_of(model, sites, self.name)
        zeros = lambda *shape: torch.zeros(len(sites), *shape, dtype=torch.float64)  # noqa: E731
        return {
            "n": torch.zeros((), dtype=torch.int64),
            "n_group": torch.zeros(n_groups, dtype=torch.int64),
            "sums": zeros(heads, width),
            "group_sums": zeros(n_groups, heads, width),
            "products": zeros(heads, width, width),
        }

    def add(self, state: State, seen: Seen) -> None:
        sites = self.sites(seen.model.anatomy)
        groups = group_matrix(seen.marks, self.groups, seen.wide(sites[0]).dtype)
        state["n"] += len(seen.index)
        state["n_group"] += groups.sum(0).long()
        for i, site in enumerate(sites):
            z = seen.wide(site)
            state["sums"][i] += z.sum(0)
            state["group_sums"][i] += (groups.T @ z.flatten(1)).unflatten(1, z.shape[1:])
            by_head = z.transpose(0, 1)
            state["products"][i] += by_head.transpose(1, 2) @ by_head

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """``mean``, ``second_moment`` and ``group_mean``, with ``n_group`` tokens in each group."""
        n, sites = int(state["n"]), self.sites(model.anatomy)
        head, width = sites[0].kind.dims[1:]
        arrays = {
            "mean": (state["sums"] / n, ("layer", head, width)),
            "second_moment": (state["products"] / n, ("layer", head, width, "other")),
            "group_mean": (state["group_sums"] / state["n_group"][:, None, None], ("layer", "group", head, width)),
            "n_group": (state["n_group"], ("group",)),
        }
        coords = {"layer": [site.layer for site in sites], "group": group_names(self.groups)}
        return dataset(model, arrays, coords, site=self.site, n=n, **attrs)
