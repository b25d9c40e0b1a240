"""What kinds of tokens attention goes to, from what kinds of tokens, and how large what is carried from there is.

    attention_gk = mean over queries i of g of the sum of a(i, j) over keys j of k
    value_gk = the same of a(i, j) ||v_j W_O||,    ||v W_O||^2 = v (W_O W_O^T) v^T
    uniform_gk = the same of attention that is spread over all keys alike

Two products a head: (G^T A) K, without anything of the size of queries x keys x groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import xarray as xr
from torch import Tensor

from caseback.errors import SiteAbsent
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.coerce import widened
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.running.attention import repeat_heads
from caseback.model.running.model import Model
from caseback.stream.tables.attention.allowed_keys import allowed_keys, distinct
from caseback.stream.tables.dataset import dataset
from caseback.stream.tables.site_shapes import layered, shape_of
from caseback.stream.tables.table import Seen, State, Table
from caseback.stream.tables.token_groups import group_matrix, group_names


@dataclass(frozen=True)
class AttentionReceived(Table):
    """Attention by groups of queries and groups of keys.

    Attributes
    ----------
    queries, keys
        Groups of tokens; see ``token_groups``.
    skip
        Queries at so many first positions of a row are left out.
    """

    queries: tuple[str, ...] = ("any", "kinds")
    keys: tuple[str, ...] = ("any", "position", "kinds", "repeats")
    skip: int = 4

    name: ClassVar[str] = "attention_received"
    rules: ClassVar[Mapping[str, str]] = dict.fromkeys(("n", "n_key", "uniform", "attention", "value"), "sum")

    def sites(self, anatomy: Anatomy) -> list[Site]:
        if anatomy.head_site != "z":
            raise SiteAbsent(
                f"no table {self.name}: {anatomy.before_write} stands between z and what heads write, so what a head "
                "carries from one token is not its value times W_O"
            )
        return [site for name in ("pattern", "v") for site in layered(anatomy, name, self.name)]

    def empty(self, model: Model) -> State:
        anatomy, queries, keys = model.anatomy, len(group_names(self.queries)), len(group_names(self.keys))
        layers = anatomy.n_layers
        heads = shape_of(model, [Site("z", layer) for layer in range(layers)], self.name)[0]
        return {
            "n": torch.zeros(queries, dtype=torch.int64),
            "n_key": torch.zeros(keys, dtype=torch.int64),
            "uniform": torch.zeros(layers, queries, keys, dtype=torch.float64),
            **{n: torch.zeros(layers, heads, queries, keys, dtype=torch.float64) for n in ("attention", "value")},
        }

    def add(self, state: State, seen: Seen) -> None:
        anatomy, width = seen.model.anatomy, seen.tokens.shape[1]
        dtype = seen.attention(0).dtype
        own = group_matrix(seen.marks, self.queries, dtype) * (seen.marks.position >= self.skip)[:, None]
        of_key = group_matrix(seen.marks, self.keys, dtype)
        state["n"] += own.sum(0).long()
        state["n_key"] += of_key.sum(0).long()
        queries, keys = (seen.in_rows(x) for x in (own, of_key))
        for mask, layers in distinct(allowed_keys(anatomy, width)).values():
            mask = mask.to(queries.device)
            uniform = (widened(mask) / mask.sum(1, keepdim=True)).to(dtype)
            state["uniform"][layers] += widened(torch.einsum("bqg,bqk->gk", queries, uniform @ keys))
        for layer in range(anatomy.n_layers):
            # (row, head, group, key)
            given = queries.transpose(1, 2)[:, None] @ seen.attention(layer)
            carried = given * seen.in_rows(_sizes(seen, layer)).transpose(1, 2)[:, :, None]
            for name, x in (("attention", given), ("value", carried)):
                state[name][layer] += (x @ keys[:, None]).sum(0)

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """``attention``, ``value``, ``uniform`` by groups of query and key; ``n`` queries and ``n_key`` keys."""
        n = state["n"].double()[:, None]
        by_head = ("layer", "head", "query", "key")
        arrays: dict[str, tuple[Tensor, tuple[str, ...]]] = {
            "attention": (state["attention"] / n, by_head),
            "value": (state["value"] / n, by_head),
            "uniform": (state["uniform"] / n, ("layer", "query", "key")),
            "n": (state["n"], ("query",)),
            "n_key": (state["n_key"], ("key",)),
        }
        coords = {
            "layer": list(range(model.anatomy.n_layers)),
            "query": group_names(self.queries),
            "key": group_names(self.keys),
        }
        return dataset(model, arrays, coords, skip=self.skip, **attrs)


def _sizes(seen: Seen, layer: int) -> Tensor:
    """||v W_O|| of every token and head."""
    write = at_least_float32(seen.model.weights.W_O[layer].detach())
    v = repeat_heads(seen.wide(Site("v", layer)).transpose(0, 1)[None], len(write))[0]
    gram = write @ write.transpose(1, 2)
    return torch.linalg.vecdot(v @ gram.to(v), v).clamp_min(0).sqrt().T
