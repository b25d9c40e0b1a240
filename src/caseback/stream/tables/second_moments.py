"""Second moments of vectors: of the stream for PCA, whitening and erasure, of the MLP's output keys for editing.

    C = E[x x^T],  uncentered,    covariance = C - E[x] E[x]^T

A matrix of width squared at each layer: choose layers where it is large.
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
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.stream.tables.dataset import dataset
from caseback.stream.tables.site_shapes import layered, shape_of
from caseback.stream.tables.table import Seen, State, Table


@dataclass(frozen=True)
class SecondMoments(Table):
    """E[x x^T] and E[x] at chosen layers of a site.

    Attributes
    ----------
    site
        A layered site of one vector per token.
    layers
        Which; all by default.
    """

    site: str = "resid_post"
    layers: tuple[int, ...] | None = None

    name: ClassVar[str] = "second_moments"
    rules: ClassVar[Mapping[str, str]] = {"n": "sum", "sums": "sum", "products": "sum"}

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
        return {
            "n": torch.zeros((), dtype=torch.int64),
            "sums": torch.zeros(len(sites), width, dtype=torch.float64),
            "products": torch.zeros(len(sites), width, width, dtype=torch.float64),
        }

    def add(self, state: State, seen: Seen) -> None:
        state["n"] += len(seen.index)
        for i, site in enumerate(self.sites(seen.model.anatomy)):
            x = seen.wide(site)
            state["sums"][i] += x.sum(0)
            state["products"][i] += symmetric_product(x)

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """``mean``, ``second_moment`` and ``covariance``."""
        n, sites = int(state["n"]), self.sites(model.anatomy)
        dim = sites[0].kind.dims[1]
        mean, second = state["sums"] / n, state["products"] / n
        arrays = {
            "mean": (mean, ("layer", dim)),
            "second_moment": (second, ("layer", dim, "other")),
            "covariance": (second - mean[:, :, None] * mean[:, None], ("layer", dim, "other")),
        }
        return dataset(model, arrays, {"layer": [site.layer for site in sites]}, site=self.site, n=n, **attrs)
