"""Second moments of vectors: of the stream for PCA, whitening and erasure, of the MLP's output keys for editing.

    C = E[x x^T],  uncentered,    covariance = C - E[x] E[x]^T,    E[x | g] of groups g of tokens

A matrix of width squared at each layer: choose layers where it is large. With the classes of a label as groups these
are all that closed forms of directions and erasers need; see ``caseback.decode.collected_moments``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import xarray as xr

from caseback.errors import SiteAbsent
from caseback.model.algebra.symmetric_product import symmetric_product
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.coerce import widest
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.stream.tables.dataset import dataset
from caseback.stream.tables.site_shapes import layered, shape_of
from caseback.stream.tables.table import Seen, State, Table
from caseback.stream.tables.token_groups import group_matrix, group_names


@dataclass(frozen=True)
class SecondMoments(Table):
    """E[x x^T] and E[x] at chosen layers of a site, of all tokens or of those in some groups.

    Attributes
    ----------
    site
        A layered site of one vector per token.
    layers
        Which; all by default.
    groups
        Groups of tokens whose means are collected, such as ``"label:NAME:N"``; then tokens in none are left out.
    """

    site: str = "resid_post"
    layers: tuple[int, ...] | None = None
    groups: tuple[str, ...] = ()

    name: ClassVar[str] = "second_moments"
    rules: ClassVar[Mapping[str, str]] = dict.fromkeys(("n", "sums", "products", "group_n", "group_sums"), "sum")

    def __post_init__(self) -> None:
        group_names(self.groups)

    def sites(self, anatomy: Anatomy) -> list[Site]:
        sites = layered(anatomy, self.site, self.name, self.layers)
        if len(sites[0].kind.dims) != 2:
            raise SiteAbsent(
                f"no table {self.name} of {self.site!r}: it holds {' x '.join(sites[0].kind.dims)}, expected one "
                "vector per token; heads have the table head_moments"
            )
        return sites

    def empty(self, model: Model) -> State:
        sites = self.sites(model.anatomy)
        (width,) = shape_of(model, sites, self.name)
        state = {
            "n": torch.zeros((), dtype=torch.int64),
            "sums": torch.zeros(len(sites), width, dtype=torch.float64),
            "products": torch.zeros(len(sites), width, width, dtype=torch.float64),
        }
        if n_groups := len(group_names(self.groups)):
            state["group_n"] = torch.zeros(n_groups, dtype=torch.int64)
            state["group_sums"] = torch.zeros(len(sites), n_groups, width, dtype=torch.float64)
        return state

    def add(self, state: State, seen: Seen) -> None:
        groups = group_matrix(seen.marks, self.groups, widest(seen.index.device)) if self.groups else None
        within = None if groups is None else groups.any(1)
        state["n"] += len(seen.index) if within is None else within.sum()
        if groups is not None:
            state["group_n"] += groups.sum(0).long()
        for i, site in enumerate(self.sites(seen.model.anatomy)):
            x = seen.wide(site)
            if groups is not None and within is not None:
                x = x.where(within[:, None], 0)
                state["group_sums"][i] += groups.to(x).T @ x
            state["sums"][i] += x.sum(0)
            state["products"][i] += symmetric_product(x)

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """``mean``, ``second_moment`` and ``covariance``; with groups ``group_mean``, and of how many ``n_group``."""
        n, sites = int(state["n"]), self.sites(model.anatomy)
        dim = sites[0].kind.dims[1]
        mean, second = state["sums"] / n, state["products"] / n
        arrays = {
            "mean": (mean, ("layer", dim)),
            "second_moment": (second, ("layer", dim, "other")),
            "covariance": (second - mean[:, :, None] * mean[:, None], ("layer", dim, "other")),
        }
        coords: dict[str, list[Any]] = {"layer": [site.layer for site in sites]}
        if self.groups:
            counts = state["group_n"]
            arrays["n_group"] = (counts, ("group",))
            arrays["group_mean"] = (state["group_sums"] / counts[:, None], ("layer", "group", dim))
            coords["group"] = group_names(self.groups)
        return dataset(model, arrays, coords, site=self.site, n=n, **attrs)
