"""Moments of neurons: how each is distributed, as far as four sums and two extremes tell.

    n, S1 .. S4 = sum of a .. a^4, max, min, firings = number of a > 0
    mean = S1 / n,  variance = S2 / n - mean^2,  skewness and kurtosis from the central moments

Of what multiplies W_out and, where the MLP is gated, of the gate's input: LAPE, for one, counts the latter's signs.
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
from caseback.stream.tables.site_shapes import above_zero, in_slices, layered, shape_of
from caseback.stream.tables.table import Seen, State, Table

_SUMS = ("sums", "squares", "cubes", "fourths")


@dataclass(frozen=True)
class NeuronMoments(Table):
    """Moments of every neuron, or of any site of one number per unit.

    Attributes
    ----------
    of
        Sites; those that the model lacks are left out, and all of them may not be.
    """

    of: tuple[str, ...] = ("mlp_post", "mlp_gate")

    name: ClassVar[str] = "neuron_moments"
    rules: ClassVar[Mapping[str, str]] = {**dict.fromkeys(("n", *_SUMS, "firings"), "sum"), "max": "max", "min": "min"}

    def _present(self, anatomy: Anatomy) -> dict[str, list[Site]]:
        present, reasons = {}, []
        for name in self.of:
            try:
                present[name] = layered(anatomy, name, self.name)
            except SiteAbsent as error:
                reasons.append(error)
        if not present:
            raise reasons[0] if reasons else SiteAbsent(f"no table {self.name} of no site")
        return present

    def sites(self, anatomy: Anatomy) -> list[Site]:
        return [site for sites in self._present(anatomy).values() for site in sites]

    def empty(self, model: Model) -> State:
        state = {"n": torch.zeros((), dtype=torch.int64)}
        for name, sites in self._present(model.anatomy).items():
            shape = (len(sites), *shape_of(model, sites, self.name))
            for what in (*_SUMS, "firings"):
                state[f"{name}/{what}"] = torch.zeros(shape, dtype=torch.float64)
            state[f"{name}/max"] = torch.full(shape, -torch.inf, dtype=torch.float64)
            state[f"{name}/min"] = torch.full(shape, torch.inf, dtype=torch.float64)
        return state

    def add(self, state: State, seen: Seen) -> None:
        state["n"] += len(seen.index)
        for name, sites in self._present(seen.model.anatomy).items():
            of = {what: state[f"{name}/{what}"] for what in (*_SUMS, "firings", "max", "min")}
            for i, site in enumerate(sites):
                for _, x in in_slices(seen.wide(site)):
                    square = x * x
                    of["sums"][i] += x.sum(0)
                    of["squares"][i] += square.sum(0)
                    of["cubes"][i] += (square * x).sum(0)
                    of["fourths"][i] += square.square_().sum(0)
                    of["firings"][i] += above_zero(x).sum(0)
                    torch.maximum(of["max"][i], x.amax(0), out=of["max"][i])
                    torch.minimum(of["min"][i], x.amin(0), out=of["min"][i])

    def merge(self, one: State, other: State) -> State:
        rule = {"max": torch.maximum, "min": torch.minimum}
        return {name: rule.get(name.rpartition("/")[2], torch.add)(x, other[name]) for name, x in one.items()}

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """``{site}_mean``, ``_variance``, ``_skewness``, ``_kurtosis``, ``_max``, ``_min``, ``_fires``.

        The kurtosis of a normal distribution is 3; ``fires`` is the share of tokens above 0. Skewness and kurtosis
        of a neuron that does not vary are NaN.
        """
        n = int(state["n"])
        arrays = {}
        for name, sites in self._present(model.anatomy).items():
            of = {what: state[f"{name}/{what}"] for what in (*_SUMS, "firings", "max", "min")}
            m1, m2, m3, m4 = (of[what] / n for what in _SUMS)
            variance = (m2 - m1**2).clamp_min(0)
            # of a neuron that does not vary the shape is noise
            spread = variance.masked_fill(variance <= torch.finfo(variance.dtype).eps * m2, torch.nan)
            third = m3 - 3 * m1 * m2 + 2 * m1**3
            fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
            shown = {
                "mean": m1,
                "variance": variance,
                "skewness": third / spread**1.5,
                "kurtosis": fourth / spread**2,
                "max": of["max"],
                "min": of["min"],
                "fires": of["firings"] / n,
            }
            dims = ("layer", *sites[0].kind.dims[1:])
            arrays |= {f"{name}_{what}": (values, dims) for what, values in shown.items()}
        layers = {site.layer for site in self.sites(model.anatomy)}
        return dataset(model, arrays, {"layer": sorted(layer for layer in layers if layer is not None)}, n=n, **attrs)
