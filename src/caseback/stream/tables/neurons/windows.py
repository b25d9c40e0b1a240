"""The tokens at which each neuron is largest, and at which it is smallest: a neuron may have two useful tails.

    top_u = the k largest keys of (a_u(i), i);    with one a document: of the largest key of each document

A document's best token in a part of the corpus that is not among that part's k best has k other documents above it, so
the k best of two parts are among the k best of each: parts merge. Activations are compared as float32, equal ones by
their place, the earlier first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import xarray as xr
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.stream.tables.dataset import dataset
from caseback.stream.tables.magnitude_bins import as_single
from caseback.stream.tables.ordered_keys import NO_KEY, expect_places, index_of, keys_of, values_of
from caseback.stream.tables.site_shapes import in_slices, layered, shape_of
from caseback.stream.tables.table import Seen, State, Table

_ENDS = {"top": 1, "bottom": -1}


@dataclass(frozen=True)
class NeuronWindows(Table):
    """The tokens at either end of every neuron's range.

    Attributes
    ----------
    site
        A layered site of one number per unit.
    k
        How many tokens at either end.
    per_document
        Keep only the strongest token of each document.
    """

    site: str = "mlp_post"
    k: int = 20
    per_document: bool = True

    name: ClassVar[str] = "neuron_windows"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise OutOfRange(f"k={self.k}: expected 1 token or more at either end")

    def sites(self, anatomy: Anatomy) -> list[Site]:
        return layered(anatomy, self.site, self.name)

    def empty(self, model: Model) -> State:
        sites = self.sites(model.anatomy)
        shape = (len(sites), *shape_of(model, sites, self.name), self.k)
        keys = {f"{end}/keys": torch.full(shape, NO_KEY, dtype=torch.int64) for end in _ENDS}
        return keys | {f"{end}/document": torch.full(shape, -1, dtype=torch.int64) for end in _ENDS}

    def add(self, state: State, seen: Seen) -> None:
        expect_places(seen.index)
        for i, site in enumerate(self.sites(seen.model.anatomy)):
            for end, sign in _ENDS.items():
                own = [state[f"{end}/{what}"][i] for what in ("keys", "document")]
                for units, keys, documents in self._candidates(seen, site, sign):
                    held, of = own[0][units], own[1][units]
                    # after a while hardly any unit meets a stronger token
                    changed = (keys > held[:, -1:]).any(-1).nonzero()[:, 0]
                    better = self._best(held[changed], of[changed], keys[changed], documents[changed])
                    held[changed], of[changed] = better

    def _candidates(self, seen: Seen, site: Site, sign: int) -> Any:
        """Slices of units with (unit, candidate) keys and documents: each document's best, or all tokens."""
        marks = seen.marks
        if self.per_document:
            best, place = _best_of_rows(seen, site, sign)
            if bool(best.isnan().any()):
                raise CasebackError(f"{site} has a NaN: nothing can be ranked")
            keys = keys_of(sign * best.T, seen.index[place].T)
            of_row = marks.document[place[:, 0]]
            documents, which = of_row.unique(return_inverse=True)
            if len(documents) < len(of_row):
                none = torch.full((len(keys), len(documents)), NO_KEY, device=keys.device)
                keys = none.scatter_reduce_(1, which.expand_as(keys), keys, "amax")
            yield slice(None), keys, documents.expand_as(keys)
            return
        x = as_single(seen.at(site))
        step = max(1, limit("activation_keys", x.device) // len(x))
        for first in range(0, x.shape[1], step):
            some = x[:, first : first + step].T
            if bool(some.isnan().any()):
                raise CasebackError(f"{site} has a NaN: nothing can be ranked")
            yield slice(first, first + step), keys_of(sign * some, seen.index), marks.document.expand_as(some)

    def _best(self, keys: Tensor, documents: Tensor, more: Tensor, more_documents: Tensor) -> tuple[Tensor, Tensor]:
        """The k best of two lists, neither of which has a document twice where one a document is asked for."""
        if self.per_document:
            *units, held, new = (documents[..., :, None] == more_documents[..., None, :]).nonzero().T
            weaker = keys[(*units, held)] < more[(*units, new)]
            keys, more = keys.clone(), more.clone()
            keys[tuple(i[weaker] for i in (*units, held))] = NO_KEY
            more[tuple(i[~weaker] for i in (*units, new))] = NO_KEY
        both = torch.cat([keys, more], -1).topk(self.k, -1)
        documents = torch.cat([documents, more_documents], -1).gather(-1, both.indices)
        return both.values, documents.masked_fill(both.values == NO_KEY, -1)

    def merge(self, one: State, other: State) -> State:
        merged = {}
        for end in _ENDS:
            parts = [part[f"{end}/{what}"] for part in (one, other) for what in ("keys", "document")]
            merged[f"{end}/keys"], merged[f"{end}/document"] = self._best(*parts)
        return merged

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """``top`` and ``bottom`` activations, each with ``_place`` in the corpus and ``_document``, -1 where none."""
        sites = self.sites(model.anatomy)
        dims = ("layer", *sites[0].kind.dims[1:], "k")
        arrays = {}
        for end, sign in _ENDS.items():
            keys = state[f"{end}/keys"]
            arrays[end] = (sign * values_of(keys), dims)
            arrays[f"{end}_place"] = (index_of(keys), dims)
            arrays[f"{end}_document"] = (state[f"{end}/document"], dims)
        return dataset(model, arrays, {"layer": [site.layer for site in sites]}, site=self.site, **attrs)


def _best_of_rows(seen: Seen, site: Site, sign: int) -> tuple[Tensor, Tensor]:
    """(row, unit): each row's strongest activation of a unit and the token that has it, the first where several do."""
    x, lengths = as_single(seen.at(site)), seen.tokens.lengths
    width = seen.tokens.shape[1]
    if seen.padded:
        rows = x.new_full((len(lengths), width, x.shape[1]), -sign * torch.inf)
        rows[seen.row, seen.marks.position] = x
    else:
        rows = x.view(len(lengths), width, x.shape[1])
    best = rows.amax(1) if sign > 0 else rows.amin(1)
    # from the end 1, 2, ...: the first of those that are equal has the most. Several times as fast as a search
    from_end = torch.arange(width, 0, -1, device=x.device, dtype=x.dtype)[:, None]
    at = torch.empty_like(best)
    for some, row in in_slices(rows):
        there = torch.eq(row, best[some, None], out=torch.empty_like(row))
        at[some] = width - there.mul_(from_end).amax(1)
    return best, (lengths.cumsum(0) - lengths)[:, None] + at.long()
