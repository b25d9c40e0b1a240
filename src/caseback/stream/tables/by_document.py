"""Units by the documents of a corpus: what each does over a whole text, for labels that texts have.

    mean_du = sum over the text of a_u / n_d,    largest_du = its maximum,    fires_du = share of tokens with g_u > 0

with g the gate's input where an MLP is gated, and a otherwise. Of heads a is the direct effect on the token that comes
next, as ``head_direct`` has it. Only the first ``most`` documents enter, so that a table's size is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
import xarray as xr
from torch import Tensor

from caseback.errors import OutOfRange, SiteAbsent
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.stream.marks import Marks
from caseback.stream.tables.attention.direct import TowardTokens, expect_direct
from caseback.stream.tables.dataset import dataset
from caseback.stream.tables.site_shapes import above_zero, layered, shape_of
from caseback.stream.tables.table import Seen, State, Table


@dataclass(frozen=True, eq=False)
class _Groups:
    """A batch's tokens in groups, each in one: ``which`` (token) of ``n``."""

    which: Tensor
    n: int

    @cached_property
    def runs(self) -> list[tuple[int, slice]]:
        """Tokens side by side of one group, with its number."""
        group, size = self.which.unique_consecutive(return_counts=True)
        ends = size.cumsum(0).tolist()
        return [(g, slice(i, j)) for g, i, j in zip(group.tolist(), [0, *ends], ends, strict=False)]

    def sums(self, x: Tensor, of: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
        """The sum of what is made of each group's tokens."""
        if x.device.type != "cpu":  # one product: nothing is read back
            return torch.nn.functional.one_hot(self.which, self.n).T.to(x.dtype) @ of(x)
        sums = x.new_zeros(self.n, *x.shape[1:])
        for group, some in self.runs:
            sums[group] += of(x[some]).sum(0)
        return sums


def _largest(x: Tensor, which: Tensor, n: int) -> Tensor:
    """The largest row of each group, number by number."""
    at = which.view(-1, *[1] * (x.ndim - 1)).expand_as(x)
    return x.new_full((n, *x.shape[1:]), -torch.inf).scatter_reduce_(0, at, x, "amax")


@dataclass(frozen=True)
class NeuronDocuments(Table):
    """Neurons by documents.

    Attributes
    ----------
    most
        So many documents enter, the first of the corpus.
    skip
        So many tokens at each row's beginning are left out: the first one's activations are often of another size.
    """

    most: int = 400
    skip: int = 1

    name: ClassVar[str] = "neuron_documents"
    site: ClassVar[str] = "mlp_post"
    statistics: ClassVar[tuple[str, ...]] = ("sums", "largest", "firings")
    rules: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        if self.most < 1:
            raise OutOfRange(f"most={self.most} documents: expected 1 or more")

    def sites(self, anatomy: Anatomy) -> list[Site]:
        return [*layered(anatomy, self.site, self.name), *self._gates(anatomy)]

    def _gates(self, anatomy: Anatomy) -> list[Site]:
        try:
            return layered(anatomy, "mlp_gate", self.name)
        except SiteAbsent:
            return []

    def empty(self, model: Model) -> State:
        units = layered(model.anatomy, self.site, self.name)
        shape = (0, len(units), *shape_of(model, units, self.name)[:1])
        dtype = torch.promote_types(model.dtype, torch.float32)
        none = torch.zeros(0, dtype=torch.int64)
        return {"document": none, "n": none} | {name: torch.zeros(shape, dtype=dtype) for name in self.statistics}

    def counted(self, marks: Marks) -> Tensor:
        """Which tokens enter."""
        return (marks.position >= self.skip) & (marks.document < self.most)

    def add(self, state: State, seen: Seen) -> None:
        some = self.counted(seen.marks)
        document, inverse = seen.marks.document[some].unique(return_inverse=True)
        if not len(document):
            return
        # what does not enter is a group of its own at the end, left out of products and maxima: no site is copied
        which = torch.full_like(seen.marks.document, len(document)).masked_scatter(some, inverse)
        parts = self.by_site(seen, _Groups(which, len(document) + 1))
        more = {name: torch.stack(own, 1)[:-1].to(state[name].dtype) for name, own in parts.items()}
        n = torch.bincount(which, minlength=len(document) + 1)[:-1]
        state.update(self.merge(state, {"document": document, "n": n, **more}))

    def by_site(self, seen: Seen, groups: _Groups) -> dict[str, list[Tensor]]:
        """Each statistic by site, (group, unit)."""
        parts: dict[str, list[Tensor]] = {name: [] for name in self.statistics}
        gates = {site.layer: site for site in self._gates(seen.model.anatomy)}
        for site in layered(seen.model.anatomy, self.site, self.name):
            x = seen.wide(site)
            gate = seen.wide(gates[site.layer]) if site.layer in gates else x
            parts["sums"].append(groups.sums(x))
            parts["largest"].append(_largest(x, groups.which, groups.n))
            parts["firings"].append(groups.sums(gate, above_zero))
        return parts

    def merge(self, one: State, other: State) -> State:
        document, which = torch.cat([one["document"], other["document"]]).unique(return_inverse=True)
        merged = {"document": document}
        for name in ("n", *self.statistics):
            both = torch.cat([one[name], other[name]])
            if name == "largest":
                merged[name] = _largest(both, which, len(document))
            else:
                merged[name] = both.new_zeros(len(document), *both.shape[1:]).index_add_(0, which, both)
        return merged

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """``mean``, ``largest`` and ``fires`` by (example, layer, unit); each one's ``document`` and ``n`` tokens."""
        units = layered(model.anatomy, self.site, self.name)
        dims = ("example", "layer", *units[0].kind.dims[1:2])
        n = state["n"].clamp_min(1)[:, None, None]
        of = {"sums": "mean", "largest": "largest", "firings": "fires", "sizes": "size"}
        arrays: dict[str, tuple[Tensor, tuple[str, ...]]] = {
            name: (state[name], ("example",)) for name in ("document", "n")
        }
        for name in self.statistics:
            arrays[of[name]] = (state[name] if name == "largest" else state[name] / n, dims)
        return dataset(model, arrays, {"layer": [site.layer for site in units]}, **attrs)


@dataclass(frozen=True)
class ExpertDocuments(NeuronDocuments):
    """Weights of a mixture's experts by documents; ``fires`` is the share of tokens at which one is added."""

    name: ClassVar[str] = "expert_documents"
    site: ClassVar[str] = "expert"

    def _gates(self, anatomy: Anatomy) -> list[Site]:
        return []


@dataclass(frozen=True)
class HeadDocuments(NeuronDocuments):
    """Heads' direct effects on the tokens that come next, by documents; ``size`` is the mean of their sizes."""

    name: ClassVar[str] = "head_documents"
    site: ClassVar[str] = "z"
    statistics: ClassVar[tuple[str, ...]] = ("sums", "sizes")

    def sites(self, anatomy: Anatomy) -> list[Site]:
        expect_direct(anatomy, self.name)
        return layered(anatomy, self.site, self.name)

    def counted(self, marks: Marks) -> Tensor:
        """Which tokens enter: those that have a next one."""
        follows = torch.zeros_like(marks.position, dtype=torch.bool)
        follows[:-1] = marks.row[1:] == marks.row[:-1]
        return super().counted(marks) & follows

    def by_site(self, seen: Seen, groups: _Groups) -> dict[str, list[Tensor]]:
        """Each statistic by layer, (group, head)."""
        parts: dict[str, list[Tensor]] = {name: [] for name in self.statistics}
        toward = TowardTokens(seen, seen.marks.current.roll(-1))
        for layer in range(seen.model.anatomy.n_layers):
            effect = torch.linalg.vecdot(seen.wide(Site(self.site, layer)), toward.read(layer))
            parts["sums"].append(groups.sums(effect))
            parts["sizes"].append(groups.sums(effect, torch.abs))
        return parts
