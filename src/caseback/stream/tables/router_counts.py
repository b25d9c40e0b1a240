"""What a mixture of experts chooses, by groups of tokens.

chosen_eg = number of tokens of g at which expert e is added,    weight_eg = sum of its weights there
together_ef = number of tokens at which e and f are both added
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
from caseback.stream.tables.site_shapes import layered, shape_of
from caseback.stream.tables.table import Seen, State, Table
from caseback.stream.tables.token_groups import group_matrix, group_names


@dataclass(frozen=True)
class RouterCounts(Table):
    """How often, and with what weight, each expert is added.

    Attributes
    ----------
    groups
        Which groups of tokens; see ``token_groups``.
    """

    groups: tuple[str, ...] = ("any", "position", "kinds", "previous_kinds", "repeats")

    name: ClassVar[str] = "router_counts"
    rules: ClassVar[Mapping[str, str]] = dict.fromkeys(("n", "chosen", "weights", "together"), "sum")

    def sites(self, anatomy: Anatomy) -> list[Site]:
        return layered(anatomy, "expert", self.name)

    def empty(self, model: Model) -> State:
        sites, n_groups = self.sites(model.anatomy), len(group_names(self.groups))
        (experts,) = shape_of(model, sites, self.name)
        zeros = lambda *shape: torch.zeros(len(sites), *shape, dtype=torch.float64)  # noqa: E731
        return {
            "n": torch.zeros(n_groups, dtype=torch.int64),
            "chosen": zeros(n_groups, experts),
            "weights": zeros(n_groups, experts),
            "together": zeros(experts, experts),
        }

    def add(self, state: State, seen: Seen) -> None:
        sites = self.sites(seen.model.anatomy)
        groups = group_matrix(seen.marks, self.groups, seen.wide(sites[0]).dtype)
        state["n"] += groups.sum(0).long()
        for i, site in enumerate(sites):
            weights = seen.wide(site)
            chosen = (weights != 0).to(weights.dtype)
            state["chosen"][i] += groups.T @ chosen
            state["weights"][i] += groups.T @ weights
            state["together"][i] += chosen.T @ chosen

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """``chosen``, a share of the group's tokens; mean ``weight``, 0 if not chosen; ``together``; ``n``."""
        n, sites = state["n"].double()[:, None], self.sites(model.anatomy)
        arrays = {
            "chosen": (state["chosen"] / n, ("layer", "group", "expert")),
            "weight": (state["weights"] / n, ("layer", "group", "expert")),
            "together": (state["together"], ("layer", "expert", "other")),
            "n": (state["n"], ("group",)),
        }
        coords = {"layer": [site.layer for site in sites], "group": group_names(self.groups)}
        return dataset(model, arrays, coords, **attrs)
