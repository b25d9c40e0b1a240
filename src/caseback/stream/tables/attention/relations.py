"""How much each head looks at keys that stand in a relation to the query: the token before, the same token, and so on.

    m(i) = sum of a(i, j) over j in R(i),     mean and variance of m over queries that have such a key that may look
    uniform(i) = |R(i)| / number of keys,     hits = share of queries whose strongest key is one of R(i)

The strongest key is looked for among all but the row's first token, which takes much of most heads' attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
import xarray as xr
from torch import Tensor

from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.coerce import widened
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.stream.marks import Marks
from caseback.stream.tables.attention.allowed_keys import allowed_keys, distinct
from caseback.stream.tables.attention.relation_pairs import RELATIONS, expect_relations, pairs_of
from caseback.stream.tables.dataset import dataset, mean_and_variance
from caseback.stream.tables.site_shapes import layered, shape_of
from caseback.stream.tables.table import Seen, State, Table


class _Pairs(NamedTuple):
    """Pairs of all relations one behind another, each relation's sorted by query.

    ``of`` says which query of which relation a pair belongs to; ``relation`` and ``query`` are by that number.
    """

    query: Tensor
    key: Tensor
    of: Tensor
    relation: Tensor
    of_query: Tensor


@dataclass(frozen=True)
class AttentionRelations(Table):
    """Attention of every head on relations.

    Attributes
    ----------
    relations
        Names; see ``relation_pairs``. All that are registered by default.
    skip
        Queries at so many first positions of a row are left out.
    """

    relations: tuple[str, ...] = field(default_factory=lambda: tuple(RELATIONS))
    skip: int = 4

    name: ClassVar[str] = "attention_relations"
    rules: ClassVar[Mapping[str, str]] = dict.fromkeys(("n", "uniform", "sums", "squares", "hits"), "sum")

    def __post_init__(self) -> None:
        expect_relations(self.relations)

    def sites(self, anatomy: Anatomy) -> list[Site]:
        return layered(anatomy, "pattern", self.name)

    def empty(self, model: Model) -> State:
        sites, number = self.sites(model.anatomy), len(self.relations)
        heads = shape_of(model, [Site("z", site.layer) for site in sites], self.name)[0]
        zeros = lambda *shape: torch.zeros(len(sites), *shape, dtype=torch.float64)  # noqa: E731
        return {
            "n": torch.zeros(len(sites), number, dtype=torch.int64),
            "uniform": zeros(number),
            **{name: zeros(heads, number) for name in ("sums", "squares", "hits")},
        }

    def _pairs(self, marks: Marks) -> _Pairs:
        queries, keys, numbers = [], [], []
        for number, name in enumerate(self.relations):
            query, key = pairs_of(name, marks)
            some = marks.position[query] >= self.skip
            query, key = query[some], key[some]
            order = query.argsort(stable=True)
            queries.append(query[order])
            keys.append(key[order])
            numbers.append(torch.full_like(query, number))
        query, key = torch.cat(queries), torch.cat(keys)
        both = torch.cat(numbers) * len(marks.position) + query
        each, of = both.unique_consecutive(return_inverse=True)
        return _Pairs(query, key, of, each // len(marks.position), each % len(marks.position))

    def add(self, state: State, seen: Seen) -> None:
        marks, width = seen.marks, seen.tokens.shape[1]
        pairs = self._pairs(marks)
        if not len(pairs.query):
            return
        row, position = seen.row, marks.position
        at, to = position[pairs.query], position[pairs.key]
        n_of = len(pairs.relation)
        for mask, layers in distinct(allowed_keys(seen.model.anatomy, width)).values():
            mask = mask.to(at.device)
            may = widened(mask[at, to])
            number = widened(mask.sum(1)[at])
            some = torch.zeros(n_of, dtype=may.dtype, device=at.device).index_add_(0, pairs.of, may) > 0
            counts = torch.bincount(pairs.relation[some], minlength=len(self.relations))
            uniform = torch.bincount(pairs.relation[pairs.of], may / number, minlength=len(self.relations))
            state["n"][layers] += counts
            state["uniform"][layers] += uniform
        heads, plane = state["sums"].shape[1], width * width
        first = row[pairs.query] * heads * plane + at * width + to
        places = (first + torch.arange(heads, device=first.device)[:, None] * plane).flatten()
        for i, site in enumerate(self.sites(seen.model.anatomy)):
            assert site.layer is not None
            a = seen.attention(site.layer)
            weights = a.view(-1).index_select(0, places).view(heads, -1)
            mass = weights.new_zeros(heads, n_of).index_add_(1, pairs.of, weights)
            strongest = weights.new_zeros(heads, n_of).scatter_reduce_(1, pairs.of.expand_as(weights), weights, "amax")
            best = a[..., 1:].amax(-1)[row[pairs.of_query], :, position[pairs.of_query]].T
            hits = ((strongest >= best) & (strongest > 0)).to(weights.dtype)
            for what, values in (("sums", mass), ("squares", mass.square()), ("hits", hits)):
                by_relation = values.new_zeros(heads, len(self.relations)).index_add_(1, pairs.relation, values)
                state[what][i] += by_relation

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """By head and relation ``mean``, ``variance``, ``hits``; by layer and relation ``uniform``, ``n`` queries."""
        n = state["n"].double()
        mean, variance = mean_and_variance(state["sums"], state["squares"], n[:, None])
        dims = ("layer", "head", "relation")
        arrays = {
            "mean": (mean, dims),
            "variance": (variance, dims),
            "hits": (state["hits"] / n[:, None], dims),
            "uniform": (state["uniform"] / n, ("layer", "relation")),
            "n": (state["n"], ("layer", "relation")),
        }
        coords = {"layer": [site.layer for site in self.sites(model.anatomy)], "relation": self.relations}
        return dataset(model, arrays, coords, skip=self.skip, **attrs)
