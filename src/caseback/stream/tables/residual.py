"""Moments of the residual stream (and of any site of numbers): sums, squares and extremes of each dimension.

mean = S1 / n,    second moment = S2 / n,    norms: sum of |x|, and sum of x_d / |x|, the cosine with axis d
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
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.stream.tables.table import Seen, State, Table


@dataclass(frozen=True)
class StreamMoments(Table):
    """Moments of ``resid_post`` at every layer.

    Attributes
    ----------
    site
        A layered site with one vector per token.
    """

    site: str = "resid_post"

    name: ClassVar[str] = "stream_moments"
    rules: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("n", "sums", "squares", "cosines", "norms"), "sum"),
        "largest": "max",
    }

    def sites(self, anatomy: Anatomy) -> list[Site]:
        return list(anatomy.sites(self.site))

    def empty(self, model: Model) -> State:
        layers, width = len(self.sites(model.anatomy)), model.d_model
        zeros = lambda *shape: torch.zeros(*shape, dtype=torch.float64)  # noqa: E731
        return {
            "n": torch.zeros((), dtype=torch.int64),
            **{name: zeros(layers, width) for name in ("sums", "squares", "cosines", "largest")},
            "norms": zeros(layers),
        }

    def add(self, state: State, seen: Seen) -> None:
        state["n"] += len(seen.index)
        for i, site in enumerate(self.sites(seen.model.anatomy)):
            x: Tensor = seen.at(site).double()
            norm = torch.linalg.vector_norm(x, dim=-1)
            state["sums"][i] += x.sum(0)
            state["squares"][i] += x.square().sum(0)
            state["cosines"][i] += (x / norm.clamp_min(torch.finfo(x.dtype).tiny)[:, None]).sum(0)
            state["largest"][i] = torch.maximum(state["largest"][i], x.abs().amax(0))
            state["norms"][i] += norm.sum()

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        n = int(state["n"])
        dims = ("layer", "d_model")
        layers = {"layer": [site.layer for site in self.sites(model.anatomy)]}
        put = lambda values, dims: labelled(values, dims, layers, model=model, n=n, **attrs)  # noqa: E731
        return xr.Dataset(
            {
                "mean": put(state["sums"] / n, dims),
                "second_moment": put(state["squares"] / n, dims),
                "cosine": put(state["cosines"] / n, dims),
                "largest": put(state["largest"], dims),
                "norm": put(state["norms"] / n, ("layer",)),
            }
        )
