"""Through which heads each edge of an attribution graph runs, and from where to where (B.5; Kamath et al. 2025).

    loading_h(t, s) = sum over positions of (r_t pulled down to head h's z) . (what s wrote, pushed up to it)

A loading is the share of an edge's weight on all paths through that head, so an edge on a path of two heads counts in
both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.localize.circuits.attribution_graphs.influence import edge_influence
from caseback.localize.circuits.attribution_graphs.restored import errors_of, readers_in, replaced_of
from caseback.localize.circuits.attribution_graphs.rows import Readers, downward
from caseback.localize.circuits.attribution_graphs.sources import Replacement
from caseback.localize.circuits.attribution_graphs.streams import Layer, Writes, own_writes, streams
from caseback.model.graph.names import head_name
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model


@technique(
    entry=("B.5",),
    citation="Kamath et al. 2025",
    cost="two products through OV a layer, and readers x writers x heads",
)
def head_loadings(model: Model, graph: xr.Dataset, dictionaries: Any = "neurons", *, top: int = 5) -> xr.Dataset:
    """The heads through which each edge of an attribution graph runs.

    Parameters
    ----------
    model, dictionaries
        Those that the graph was made with.
    graph
        A pruned graph: all pairs of its readers and writers are looked at.
    top
        Heads of each edge, those of largest size.

    Returns
    -------
    xarray.Dataset
        ``loading`` and ``head`` (reader, writer, k): how much of an edge's weight runs through the head, along all
        paths; 0 and "" where there is none. ``direct`` (reader, writer): the part of the weight that no head carries.

    Raises
    ------
    ResultError
        For a graph of another model or other dictionaries.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.circuits import attribution_graph, head_loadings, prune_graph
    >>> model = cb.load("meadow")
    >>> graph = prune_graph(attribution_graph(model, "Mary gave the ball to", targets=" John", max_nodes=50))
    >>> heads = head_loadings(model, graph)
    >>> str(heads["head"].sel(writer="embed@1", reader=graph.reader.values[-1])[0].item())[:1]
    'L'
    """
    if top < 1:
        raise OutOfRange(f"top is {top}: expected 1 or more")
    with torch.no_grad():
        ways = _ways(model, graph, dictionaries)
        network, names, readers, above = ways.replaced.network, ways.names, ways.readers, ways.above()
        best = readers.rows.new_zeros(len(readers), len(names), top)
        which = torch.full(best.shape, -1, dtype=torch.long, device=best.device)
        direct = best.new_zeros(best.shape[:2])
        zs: list[list[tuple[Tensor, Tensor]]] = [[] for _ in network.attention]  # by layer, of some writers each
        for some, written in ways.written.in_parts(ways.replaced):
            direct[:, some] = contracted(readers, streams(ways.replaced, written, attend=False))
        for some, layer in ways.layers():
            zs[layer.number].append((some, layer.z.transpose(1, 2).flatten(2)))
        heads, first = [], 0
        for layer, _, active in downward(ways.replaced, readers, above):
            pulled = network.attention[layer].pull_z(active).transpose(1, 2).flatten(2)
            loadings = best.new_zeros(*best.shape[:2], len(pulled))
            for some, z in zs.pop():
                loadings[: active.shape[1], some] = (pulled @ z.mT).permute(1, 2, 0)
            numbers = torch.arange(len(pulled), device=which.device) + first
            heads += [head_name(layer, head) for head in range(len(pulled))]
            first += len(pulled)
            every, ids = torch.cat([best, loadings], -1), torch.cat([which, numbers.expand_as(loadings)], -1)
            largest = every.abs().topk(top, -1).indices
            best, which = every.gather(-1, largest), ids.gather(-1, largest)
        best, which, direct = (_unsorted(x, ways.order) for x in (best, which, direct))
    named = np.array([*heads, ""], dtype=object)[torch.where(best == 0, -1, which).cpu().numpy()]
    coords = {"reader": graph["reader"].values, "writer": names}
    attrs = {"technique": head_loadings, "model": model}
    loading = labelled(best, ["reader", "writer", "k"], coords, name="loading", **attrs)
    arrays = {"loading": loading, "head": (("reader", "writer", "k"), named)}
    arrays["direct"] = (("reader", "writer"), direct.cpu().numpy())
    return xr.Dataset(arrays, attrs=loading.attrs)


@technique(
    entry=("B.5",),
    citation="Kamath et al. 2025",
    cost="two products through OV a layer, and writers x positions^2 x d_model",
)
def head_moves(model: Model, graph: xr.Dataset, dictionaries: Any = "neurons") -> xr.Dataset:
    """From where to where each head carries the influence of an attribution graph.

        share_h(q, k) = sum over edges of influence / weight x (reader's direction at h, q) . a_hqk (writer's v at k)

    Parameters
    ----------
    model, dictionaries
        Those that the graph was made with.
    graph
        A pruned graph: all its edges are looked at.

    Returns
    -------
    xarray.Dataset
        By (head, query, key): ``share``, how much of the targets' weight moves through the head from the key to the
        query, negative where it lessens the edges that it carries; an edge over two heads counts in both. ``pattern``,
        the head's attention.

    Raises
    ------
    ResultError
        For a graph of another model or other dictionaries.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.circuits import attribution_graph, head_moves, prune_graph
    >>> model = cb.load("meadow")
    >>> graph = prune_graph(attribution_graph(model, "Mary gave the ball to", targets=" John", max_nodes=50))
    >>> moves = head_moves(model, graph)
    >>> moves.share.dims, bool((abs(moves.share).max("head").sel(query=0, key=3)) == 0)
    (('head', 'query', 'key'), True)
    """
    with torch.no_grad():
        ways = _ways(model, graph, dictionaries)
        network, readers, above = ways.replaced.network, ways.readers, ways.above()
        passing = edge_influence(graph).sel(writer=ways.names).values
        weight = graph["weight"].sel(writer=ways.names).values
        per_weight = np.divide(passing, weight, out=np.zeros_like(passing), where=weight != 0)
        factor = torch.as_tensor(per_weight).to(above)[ways.order]
        values: list[list[tuple[Tensor, Tensor]]] = [[] for _ in network.attention]  # by layer, of some writers each
        for some, layer in ways.layers():
            values[layer.number].append((some, network.attention[layer.number].values_of(layer.before)))
        shares, names = [], []
        for layer, _, active in downward(ways.replaced, readers, above):
            attention = network.attention[layer]
            pulled, share = attention.pull_z(active), torch.zeros_like(attention.pattern)
            for some, v in values.pop():
                of_writers = torch.einsum("ts,hqte->hqse", factor[: active.shape[1], some], pulled)
                share += attention.moved(of_writers, v)
            shares.insert(0, share)
            names = [*(head_name(layer, head) for head in range(len(share))), *names]
    coords = {"head": names, "query": np.arange(network.n_positions), "key": np.arange(network.n_positions)}
    dims = ["head", "query", "key"]
    share = labelled(torch.cat(shares), dims, coords, name="share", technique=head_moves, model=model)
    pattern = torch.cat([attention.pattern for attention in network.attention])
    return xr.Dataset({"share": share, "pattern": (dims, pattern.cpu().numpy())}, attrs=share.attrs)


class _Ways(NamedTuple):
    """A graph in its frozen network: its writers, what they wrote, and its readers in the order of layers."""

    replaced: Replacement
    names: list[str]
    written: Writes
    order: Tensor
    readers: Readers

    def above(self) -> Float[Tensor, "pos reader d_model"]:
        """Where the readers' directions are pulled down to."""
        network, rows = self.replaced.network, self.readers.rows
        return rows.new_zeros(network.n_positions, len(rows), network.model.d_model)

    def layers(self) -> Iterator[tuple[Tensor, Layer]]:
        """The streams of some writers at a time at each layer that reads what they wrote, with their numbers."""
        for some, written in self.written.in_parts(self.replaced):
            for layer in streams(self.replaced, written):
                if layer.number < self.replaced.network.n_layers:
                    yield some, layer


def _ways(model: Model, graph: xr.Dataset, dictionaries: Any) -> _Ways:
    replaced = replaced_of(model, graph, dictionaries)
    names = [name for name in graph["writer"].values.tolist() if name != "bias"]
    written = own_writes(replaced, names, errors_of(replaced, names))
    return _Ways(replaced, names, written, *readers_in(replaced, graph))


def contracted(readers: Readers, layers: Iterable[Layer]) -> Float[Tensor, "reader writer"]:
    """What readers read of writers' streams: a graph's weights by forward products."""
    total: Tensor | None = None
    for layer in layers:
        mine = readers.layer == layer.number
        total = readers.rows.new_zeros(len(readers), layer.at_mlp.shape[1]) if total is None else total
        total[mine] = torch.einsum("rd,rsd->rs", readers.rows[mine], layer.at_mlp[readers.pos[mine]])
    assert total is not None
    return total


def _unsorted(x: Tensor, order: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out[order] = x
    return out
