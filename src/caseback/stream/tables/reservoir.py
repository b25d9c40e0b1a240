"""Activations at a sample of tokens, the same tokens for all sites: for probes, correlations and comparisons of models.

    sample = the n tokens whose place has the least hash,    so it depends on neither batches nor parts of the corpus

Two models that read one corpus have the same sample. Activations are held in the model's own dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import xarray as xr
from torch import Tensor

from caseback.errors import OutOfRange, SiteAbsent
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.stream.tables.dataset import dataset
from caseback.stream.tables.sampled_tokens import hash_of
from caseback.stream.tables.site_shapes import layered, shape_of
from caseback.stream.tables.table import Seen, State, Table


@dataclass(frozen=True)
class Reservoir(Table):
    """Activations at sampled tokens.

    Attributes
    ----------
    of
        Layered sites, with or without a layer: ``"resid_post"``, ``"mlp_post.3"``.
    size
        How many tokens.
    seed
        Same seed, same result.
    """

    of: tuple[str, ...] = ("resid_post",)
    size: int = 1000
    seed: int = 0

    name: ClassVar[str] = "reservoir"

    def __post_init__(self) -> None:
        if self.size < 1 or not self.of:
            raise OutOfRange(f"a sample of {self.size} tokens at {len(self.of)} sites: expected 1 or more of each")

    def _by_name(self, anatomy: Anatomy) -> dict[str, list[Site]]:
        by_name = {name: layered(anatomy, name, self.name) for name in self.of}
        for name, sites in by_name.items():
            if "query" in sites[0].kind.dims:
                raise SiteAbsent(f"no table {self.name} of {name!r}: a map of tokens to tokens has no vector per token")
        return by_name

    def sites(self, anatomy: Anatomy) -> list[Site]:
        return [site for sites in self._by_name(anatomy).values() for site in sites]

    def empty(self, model: Model) -> State:
        none = torch.zeros(0, dtype=torch.int64)
        values = {
            f"values/{name}": torch.zeros(0, len(sites), *shape_of(model, sites, self.name), dtype=model.dtype)
            for name, sites in self._by_name(model.anatomy).items()
        }
        return {**dict.fromkeys(("hash", "place", "id", "position"), none), **values}

    def add(self, state: State, seen: Seen) -> None:
        drawn = hash_of(seen.index, self.seed)
        if len(state["hash"]) >= self.size:
            some = (drawn < state["hash"][-1]).nonzero()[:, 0]
        else:
            some = drawn.argsort()[: self.size]
        if not len(some):
            return
        more = {
            "hash": drawn[some],
            "place": seen.index[some],
            "id": seen.marks.current[some],
            "position": seen.marks.position[some],
        }
        for name, sites in self._by_name(seen.model.anatomy).items():
            more[f"values/{name}"] = torch.stack([seen.at(site)[some] for site in sites], 1)
        state.update(self.merge(state, more))

    def merge(self, one: State, other: State) -> State:
        both: dict[str, Tensor] = {name: torch.cat([value, other[name]]) for name, value in one.items()}
        order = both["hash"].argsort(stable=True)[: self.size]
        return {name: value[order] for name, value in both.items()}

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """By site (example, layer, ...) in the corpus's order; each token's ``place``, ``id`` and ``position``."""
        order = state["place"].argsort()
        arrays: dict[str, tuple[Tensor, tuple[str, ...]]] = {
            name: (state[name][order], ("example",)) for name in ("place", "id", "position")
        }
        layers: list[int | None] = []
        for name, sites in self._by_name(model.anatomy).items():
            layers = [site.layer for site in sites]
            arrays[name] = (state[f"values/{name}"][order], ("example", "layer", *sites[0].kind.dims[1:]))
        whole = {name: dataset(model, {name: array}, {"layer": layers}, **attrs) for name, array in arrays.items()}
        return xr.merge(whole.values(), combine_attrs="drop", join="outer")
