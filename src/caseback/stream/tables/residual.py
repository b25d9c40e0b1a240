"""Moments of the residual stream (and of any site of numbers): sums, squares and extremes of each dimension.

    mean = S1 / n,    second moment = S2 / n,    norms: sum of |x|, and sum of x_d / |x|, the cosine with axis d

A massive activation is one that is far above the sizes of the layer's other numbers: of these, all dimensions
together, a histogram tells the median and the 999th thousandth. All sums are also formed without the first tokens of
each row, whose stream is often of another size altogether.
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
LATER = 4
"""From this position on tokens count as later ones."""
_SUMS = ("n", "sums", "squares", "cosines", "norms", "log_norms")


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
        **dict.fromkeys((*_SUMS, *(f"later/{name}" for name in _SUMS), "sizes"), "sum"),
        "largest": "max",
        "later/largest": "max",
    }

    def sites(self, anatomy: Anatomy) -> list[Site]:
        return layered(anatomy, self.site, self.name)

    def empty(self, model: Model) -> State:
        sites = self.sites(model.anatomy)
        shape = (len(sites), *shape_of(model, sites, self.name))
        numbers = {name: torch.zeros(shape, dtype=torch.float64) for name in ("sums", "squares", "cosines", "largest")}
        norms = {name: torch.zeros(shape[:-1], dtype=torch.float64) for name in ("norms", "log_norms")}
        every = {"n": torch.zeros((), dtype=torch.int64), **numbers, **norms}
        return {
            **every,
            **{f"later/{name}": x.clone() for name, x in every.items()},
            "sizes": torch.zeros(len(sites), EIGHTHS.n, dtype=torch.int64),
        }

    def add(self, state: State, seen: Seen) -> None:
        later = seen.marks.position >= LATER
        state["n"] += len(seen.index)
        state["later/n"] += later.sum()
        for i, site in enumerate(self.sites(seen.model.anatomy)):
            for some, x in in_slices(seen.wide(site)):
                _enter(state, "", i, x)
                _enter(state, "later/", i, x[later[some]])
                state["sizes"][i] += torch.bincount(EIGHTHS.of(x.abs()).flatten(), minlength=EIGHTHS.n)

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """``mean``, ``variance``, ``second_moment``, ``cosine`` and ``largest`` by dimension, ``norm`` by layer.

        ``log_norm`` is the mean of log |x|. Each is there a second time as ``later_mean`` ..., NaN where no row is
        longer than the tokens that are left out; how many tokens they are of is ``later_n``.
        ``median_size`` and ``size_999`` are of |x| over all dimensions, each right to an eighth of an octave.
        """
        n, sites = int(state["n"]), self.sites(model.anatomy)
        dims = ("layer", *sites[0].kind.dims[1:])
        median, far = EIGHTHS.quantiles(state["sizes"], torch.tensor(_QUANTILES)).unbind(-1)
        arrays: dict[str, tuple[Tensor, tuple[str, ...]]] = {
            **_moments(state, "", dims),
            **{f"later_{name}": x for name, x in _moments(state, "later/", dims).items()},
            "later_n": (state["later/n"], ()),
            "median_size": (median, ("layer",)),
            "size_999": (far, ("layer",)),
        }
        return dataset(model, arrays, {"layer": [site.layer for site in sites]}, site=self.site, n=n, **attrs)


def _enter(state: State, prefix: str, i: int, x: Tensor) -> None:
    """Let some tokens enter the sums of a layer."""
    if not len(x):
        return
    norm = torch.linalg.vector_norm(x, dim=-1)
    safe = norm.clamp_min(torch.finfo(x.dtype).tiny)
    new = {
        "sums": x.sum(0),
        "squares": x.square().sum(0),
        "cosines": (x / safe[..., None]).sum(0),
        "norms": norm.sum(0),
        "log_norms": safe.log().sum(0),
    }
    for name, value in new.items():
        state[prefix + name][i] += value
    largest = state[f"{prefix}largest"][i]
    torch.maximum(largest, x.abs().amax(0), out=largest)


def _moments(state: State, prefix: str, dims: tuple[str, ...]) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
    of = {name: state[prefix + name] for name in (*_SUMS, "largest")}
    n = of["n"].double()
    mean, variance = mean_and_variance(of["sums"], of["squares"], n)
    return {
        "mean": (mean, dims),
        "variance": (variance, dims),
        "second_moment": (of["squares"] / n, dims),
        "cosine": (of["cosines"] / n, dims),
        "largest": (of["largest"], dims),
        "norm": (of["norms"] / n, dims[:-1]),
        "log_norm": (of["log_norms"] / n, dims[:-1]),
    }
