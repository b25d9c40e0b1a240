"""Moments of the residual stream (and of any site of numbers): sums, squares and extremes of each dimension.

    mean = S1 / n,    second moment = S2 / n,    norms: sum of |x|, and sum of x_d / |x|, the cosine with axis d

A massive activation is one that is far above the sizes of the layer's other numbers: of these, all dimensions
together, a histogram tells the median and the 999th thousandth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import xarray as xr
from torch import Tensor

from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.stream.tables.dataset import dataset, mean_and_variance
from caseback.stream.tables.magnitude_bins import MagnitudeBins
from caseback.stream.tables.site_shapes import in_slices, layered, shape_of
from caseback.stream.tables.table import Seen, State, Table

EIGHTHS = MagnitudeBins(low=-16, octaves=32, sub=3)
_QUANTILES = (0.5, 0.999)


@dataclass(frozen=True)
class StreamMoments(Table):
    """Moments of ``resid_post`` at every layer.

    Attributes
    ----------
    site
        A layered site; one with heads has them side by side.
    """

    site: str = "resid_post"

    name: ClassVar[str] = "stream_moments"
    rules: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("n", "sums", "squares", "cosines", "norms", "sizes"), "sum"),
        "largest": "max",
    }

    def sites(self, anatomy: Anatomy) -> list[Site]:
        return layered(anatomy, self.site, self.name)

    def empty(self, model: Model) -> State:
        sites = self.sites(model.anatomy)
        shape = (len(sites), *shape_of(model, sites, self.name))
        numbers = {name: torch.zeros(shape, dtype=torch.float64) for name in ("sums", "squares", "cosines", "largest")}
        return {
            "n": torch.zeros((), dtype=torch.int64),
            **numbers,
            "norms": torch.zeros(shape[:-1], dtype=torch.float64),
            "sizes": torch.zeros(len(sites), EIGHTHS.n, dtype=torch.int64),
        }

    def add(self, state: State, seen: Seen) -> None:
        state["n"] += len(seen.index)
        for i, site in enumerate(self.sites(seen.model.anatomy)):
            for _, x in in_slices(seen.wide(site)):
                norm = torch.linalg.vector_norm(x, dim=-1)
                sizes = x.abs()
                state["sums"][i] += x.sum(0)
                state["squares"][i] += x.square().sum(0)
                state["cosines"][i] += (x / norm.clamp_min(torch.finfo(x.dtype).tiny)[..., None]).sum(0)
                torch.maximum(state["largest"][i], sizes.amax(0), out=state["largest"][i])
                state["norms"][i] += norm.sum(0)
                state["sizes"][i] += torch.bincount(EIGHTHS.of(sizes).flatten(), minlength=EIGHTHS.n)

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """``mean``, ``variance``, ``second_moment``, ``cosine`` and ``largest`` by dimension, ``norm`` by layer.

        ``median_size`` and ``size_999`` are of |x| over all dimensions, each right to an eighth of an octave.
        """
        n, sites = int(state["n"]), self.sites(model.anatomy)
        dims = ("layer", *sites[0].kind.dims[1:])
        mean, variance = mean_and_variance(state["sums"], state["squares"], n)
        median, far = EIGHTHS.quantiles(state["sizes"], torch.tensor(_QUANTILES)).unbind(-1)
        arrays: dict[str, tuple[Tensor, tuple[str, ...]]] = {
            "mean": (mean, dims),
            "variance": (variance, dims),
            "second_moment": (state["squares"] / n, dims),
            "cosine": (state["cosines"] / n, dims),
            "largest": (state["largest"], dims),
            "norm": (state["norms"] / n, dims[:-1]),
            "median_size": (median, ("layer",)),
            "size_999": (far, ("layer",)),
        }
        return dataset(model, arrays, {"layer": [site.layer for site in sites]}, site=self.site, n=n, **attrs)
