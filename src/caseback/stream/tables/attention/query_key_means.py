"""Mean queries and keys before rotation, from which a head's preference for distances follows by its weights.

    E[q] = (1 / n) sum over p of (sum of q at position p) T_p^-1,    and the same of k

Sites ``q`` and ``k`` are as they enter attention: rotated, and normed where the family does that. Here they are turned
back to position 0, so that the score expected at distance D is E[q] T_D E[k]^T. The key of a row's first token, at
which many heads rest, is averaged by itself too.
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
from caseback.stream.tables.attention.rotations import turns_back
from caseback.stream.tables.dataset import dataset
from caseback.stream.tables.site_shapes import layered, shape_of
from caseback.stream.tables.table import Seen, State, Table


@dataclass(frozen=True)
class QueryKeyMeans(Table):
    """Mean query and key of every head, turned back to position 0."""

    name: ClassVar[str] = "query_key_means"
    rules: ClassVar[Mapping[str, str]] = dict.fromkeys(("n", "q", "k", "rows", "first"), "sum")

    def sites(self, anatomy: Anatomy) -> list[Site]:
        try:
            turns_back(anatomy, 2)
        except SiteAbsent as error:
            raise SiteAbsent(f"no table {self.name}: {error}") from None
        return [site for name in ("q", "k") for site in layered(anatomy, name, self.name)]

    def empty(self, model: Model) -> State:
        state = {"n": torch.zeros((), dtype=torch.int64)}
        for name in ("q", "k"):
            sites = layered(model.anatomy, name, self.name)
            state[name] = torch.zeros(len(sites), *shape_of(model, sites, self.name), dtype=torch.float64)
        return state | {"rows": torch.zeros((), dtype=torch.int64), "first": torch.zeros_like(state["k"])}

    def add(self, state: State, seen: Seen) -> None:
        position, width = seen.marks.position, seen.tokens.shape[1]
        state["n"] += len(position)
        first = position == 0
        state["rows"] += first.sum()
        for i, site in enumerate(layered(seen.model.anatomy, "k", self.name)):
            state["first"][i] += seen.wide(site)[first].sum(0)
        turns = turns_back(seen.model.anatomy, width)
        for name in ("q", "k"):
            for i, site in enumerate(layered(seen.model.anatomy, name, self.name)):
                x, turn = seen.wide(site), turns[i]
                if turn is None:
                    state[name][i] += x.sum(0)
                    continue
                by_position = x.new_zeros(width, *x.shape[1:]).index_add_(0, position, x)
                state[name][i] += torch.einsum("phd,pde->he", by_position, turn.to(x))

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """``q`` by head, ``k`` by key/value head, and ``first``, the same of rows' first tokens alone."""
        n = int(state["n"])
        arrays = {
            "q": (state["q"] / n, ("layer", "head", "d_head")),
            "k": (state["k"] / n, ("layer", "kv_head", "d_head")),
            "first": (state["first"] / int(state["rows"]), ("layer", "kv_head", "d_head")),
        }
        layers = list(range(model.anatomy.n_layers))
        return dataset(model, arrays, {"layer": layers}, n=n, **attrs)
