"""Histograms of neurons, in 65 bins of half an octave either side of 0, whose edges do not depend on the data.

    counts (layer, neuron, bin),    edges +-2^-8, +-1.5 2^-8, +-2^-7 ... +-1.5 2^7 and infinity

Quantiles, and the AUROC of a neuron between two corpora, follow from them to within a bin.
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
from caseback.stream.tables.dataset import dataset
from caseback.stream.tables.magnitude_bins import MagnitudeBins
from caseback.stream.tables.site_shapes import in_columns, layered, shape_of
from caseback.stream.tables.table import Seen, State, Table

HALVES = MagnitudeBins(low=-8, octaves=16, sub=1)
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)


@dataclass(frozen=True)
class NeuronHistograms(Table):
    """A histogram of every neuron.

    Attributes
    ----------
    site
        A layered site of one number per unit.
    """

    site: str = "mlp_post"

    name: ClassVar[str] = "neuron_histograms"
    rules: ClassVar[Mapping[str, str]] = {"counts": "sum"}

    def sites(self, anatomy: Anatomy) -> list[Site]:
        return layered(anatomy, self.site, self.name)

    def empty(self, model: Model) -> State:
        sites = self.sites(model.anatomy)
        shape = (len(sites), *shape_of(model, sites, self.name), HALVES.n)
        return {"counts": torch.zeros(shape, dtype=torch.int64)}

    def add(self, state: State, seen: Seen) -> None:
        for counts, site in zip(state["counts"], self.sites(seen.model.anatomy), strict=True):
            # heads and their dimensions side by side
            by_unit = counts.view(-1, HALVES.n)
            for some, x in in_columns(seen.at(site).flatten(1)):
                size = x.shape[1] * HALVES.n
                first = torch.arange(0, size, HALVES.n, device=x.device, dtype=torch.int32)
                bins = HALVES.of(x).add_(first)
                by_unit[some] += torch.bincount(bins.flatten(), minlength=size).view(-1, HALVES.n)

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """``count`` by bin, with the bins' ``lower`` edges, and ``quantile`` by share."""
        sites = self.sites(model.anatomy)
        dims = ("layer", *sites[0].kind.dims[1:])
        counts = state["counts"]
        shares = torch.tensor(QUANTILES, dtype=torch.float64)
        arrays = {
            "count": (counts, (*dims, "bin")),
            "lower": (HALVES.edges()[:-1], ("bin",)),
            "quantile": (HALVES.quantiles(counts, shares), (*dims, "rank")),
        }
        coords = {"layer": [site.layer for site in sites], "rank": QUANTILES}
        return dataset(model, arrays, coords, site=self.site, **attrs)
