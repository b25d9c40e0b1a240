"""How far back each head looks: attention by the distance from key to query.

    mean_b = sum of a(i, j) over i - j in bin b, j > 0  /  number of such pairs that may look
    sink = mean of a(i, 0),    outside = mean of 1 - sum_j a(i, j), what a learned sink takes

Distances 0 to 31 have a bin each, longer ones a quarter of an octave; the row's first token has a column of its own and
is in no bin. Queries at a row's first positions, which have hardly a choice, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
import xarray as xr
from torch import Tensor

from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.coerce import widened
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.stream.tables.attention.allowed_keys import allowed_keys, distinct
from caseback.stream.tables.dataset import dataset, mean_and_variance
from caseback.stream.tables.site_shapes import in_slices, layered, shape_of
from caseback.stream.tables.table import Seen, State, Table

EXACT = 32
STARTS = (*range(EXACT), *(int(2 ** (5 + step / 4)) for step in range(31)))
"""The shortest distance of each bin; the last one has no end."""


@dataclass(frozen=True)
class AttentionOffsets(Table):
    """Attention of every head by distance.

    Attributes
    ----------
    skip
        Queries at so many first positions of a row are left out; 1 or more.
    """

    skip: int = 4

    name: ClassVar[str] = "attention_offsets"
    rules: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("n", "pairs", "uniform", "sums", "squares", "sink", "sink_squares", "uniform_sink"), "sum"
    )

    def sites(self, anatomy: Anatomy) -> list[Site]:
        return layered(anatomy, "pattern", self.name)

    def empty(self, model: Model) -> State:
        sites = self.sites(model.anatomy)
        (heads,) = _heads(model, sites, self.name)
        zeros = lambda *shape: torch.zeros(len(sites), *shape, dtype=torch.float64)  # noqa: E731
        return {
            "n": torch.zeros((), dtype=torch.int64),
            "pairs": torch.zeros(len(sites), len(STARTS), dtype=torch.int64),
            "uniform": zeros(len(STARTS)),
            "uniform_sink": zeros(),
            **{name: zeros(heads, len(STARTS)) for name in ("sums", "squares")},
            **{name: zeros(heads) for name in ("sink", "sink_squares")},
        }

    def add(self, state: State, seen: Seen) -> None:
        width, skip = seen.tokens.shape[1], max(1, self.skip)
        if width <= skip:
            return
        lengths = seen.tokens.lengths
        # how many rows have a query at each position
        rows = (torch.arange(width, device=lengths.device)[:, None] < lengths).sum(1)
        rows[:skip] = 0
        state["n"] += rows.sum()
        bins = bins_of_width(width).to(lengths.device)
        for mask, layers in distinct(allowed_keys(seen.model.anatomy, width)).values():
            mask = mask.to(lengths.device)
            number = widened(mask.sum(1))
            others = mask.clone()
            others[:, 0] = False
            by_distance = _by_distance(widened(others)[None, None], 1, width).flip(-1)[0, 0]
            weights = by_distance * rows[1:, None]
            state["pairs"][layers] += _binned(weights.sum(0), bins).long()
            state["uniform"][layers] += _binned((weights / number[1:, None]).sum(0), bins)
            state["uniform_sink"][layers] += (rows * mask[:, 0] / number).sum()
        for i, site in enumerate(self.sites(seen.model.anatomy)):
            assert site.layer is not None
            a = seen.attention(site.layer)
            sink = a[:, :, skip:, 0].clone()
            state["sink"][i] += sink.sum((0, 2))
            state["sink_squares"][i] += sink.square().sum((0, 2))
            for _, some in in_slices(a):
                others = some.clone()  # the map itself is read by other tables at the same time
                others[..., 0] = 0
                for what, values in (("sums", others), ("squares", others.square())):
                    by_distance = _summed(_by_distance(values, skip, width))
                    state[what][i] += _binned(by_distance.flip(-1), bins)

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """``mean``, ``variance``, ``pairs``, ``uniform`` by bin; ``sink``, ``uniform_sink``, ``outside`` by head.

        ``mass`` is the attention that a query gives to a bin in all.
        """
        n, pairs = int(state["n"]), state["pairs"].double()
        by_head, by_bin = ("layer", "head"), ("layer", "bin")
        mean, variance = mean_and_variance(state["sums"], state["squares"], pairs[:, None])
        sink, sink_variance = mean_and_variance(state["sink"], state["sink_squares"], n)
        arrays: dict[str, tuple[Tensor, tuple[str, ...]]] = {
            "mean": (mean, (*by_head, "bin")),
            "variance": (variance, (*by_head, "bin")),
            "mass": (state["sums"] / n, (*by_head, "bin")),
            "uniform": (state["uniform"] / pairs, by_bin),
            "pairs": (state["pairs"], by_bin),
            "sink": (sink, by_head),
            "sink_variance": (sink_variance, by_head),
            "uniform_sink": (state["uniform_sink"] / n, ("layer",)),
            "outside": (1 - (state["sums"].sum(-1) + state["sink"]) / n, by_head),
        }
        layers = [site.layer for site in self.sites(model.anatomy)]
        return dataset(model, arrays, {"layer": layers, "bin": STARTS}, n=n, skip=self.skip, **attrs)


def _heads(model: Model, sites: list[Site], table: str) -> tuple[int, ...]:
    return shape_of(model, [Site("z", site.layer) for site in sites], table)[:1]


@lru_cache(maxsize=8)
def bins_of_width(width: int) -> Tensor:
    """The bin of each distance from 0 on."""
    return torch.bucketize(torch.arange(width), torch.tensor(STARTS), right=True) - 1


def _binned(by_distance: Tensor, bins: Tensor) -> Tensor:
    shape = (*by_distance.shape[:-1], len(STARTS))
    return by_distance.new_zeros(shape).index_add_(-1, bins, by_distance)


def _summed(diagonals: Tensor) -> Tensor:
    """(head, distance): over rows and queries, as a product, which takes the view's strides as they are."""
    rows, heads, queries, width = diagonals.shape
    ones = diagonals.new_ones(rows * heads, 1, queries)
    return widened((ones @ diagonals.flatten(0, 1)).view(rows, heads, width)).sum(0)


def _by_distance(a: Tensor, skip: int, width: int) -> Tensor:
    """A view (row, head, query from ``skip`` on, distance from the longest) of (row, head, query, key).

    a(i, j) lies at i (width + 1) - (i - j), so a step of one query and one key is a stride; what lies before a row's
    first key is the row above, behind its diagonal, where attention is 0.
    """
    rows, heads, step, key = a.stride()
    assert (step, key) == (width, 1)
    start = a.storage_offset() + skip * (width + 1) - (width - 1)
    return a.as_strided((*a.shape[:2], width - skip, width), (rows, heads, width + 1, 1), start)
