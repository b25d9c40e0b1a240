"""Through which heads each edge of an attribution graph runs (B.5; Kamath et al. 2025).

    loading_h(t, s) = sum over positions of (r_t pulled down to head h's z) . (what s wrote, pushed up to it)

A loading is the share of an edge's weight on all paths through that head, so an edge on a path of two heads counts in
both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.localize.circuits.attribution_graphs.restored import errors_of, readers_in, replaced_of
from caseback.localize.circuits.attribution_graphs.rows import Readers, downward
from caseback.localize.circuits.attribution_graphs.streams import Layer, own_writes, streams
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
    replaced = replaced_of(model, graph, dictionaries)
    network = replaced.network
    names = [name for name in graph["writer"].values.tolist() if name != "bias"]
    with torch.no_grad():
        order, readers = readers_in(replaced, graph)
        written = own_writes(replaced, names, errors_of(replaced, names))
        zs = [layer.z for layer in streams(replaced, written)]
        above = readers.rows.new_zeros(network.n_positions, len(readers), model.d_model)
        best = readers.rows.new_zeros(len(readers), len(names), top)
        which = torch.full(best.shape, -1, dtype=torch.long, device=best.device)
        direct = contracted(readers, streams(replaced, written, attend=False))
        heads, first = [], 0
        for layer, _, active in downward(replaced, readers, above):
            pulled = network.attention[layer].pull_z(active)
            loadings = best.new_zeros(*best.shape[:2], len(pulled))
            loadings[: active.shape[1]] = torch.einsum("hqte,hqse->tsh", pulled, zs[layer])
            numbers = torch.arange(len(pulled), device=which.device) + first
            heads += [head_name(layer, head) for head in range(len(pulled))]
            first += len(pulled)
            every, ids = torch.cat([best, loadings], -1), torch.cat([which, numbers.expand_as(loadings)], -1)
            largest = every.abs().topk(top, -1).indices
            best, which = every.gather(-1, largest), ids.gather(-1, largest)
        best, which, direct = (_unsorted(x, order) for x in (best, which, direct))
    named = np.array([*heads, ""], dtype=object)[torch.where(best == 0, -1, which).cpu().numpy()]
    coords = {"reader": graph["reader"].values, "writer": names}
    attrs = {"technique": head_loadings, "model": model}
    loading = labelled(best, ["reader", "writer", "k"], coords, name="loading", **attrs)
    arrays = {"loading": loading, "head": (("reader", "writer", "k"), named)}
    arrays["direct"] = (("reader", "writer"), direct.cpu().numpy())
    return xr.Dataset(arrays, attrs=loading.attrs)


def contracted(readers: Readers, layers: Iterable[Layer]) -> Float[Tensor, "reader writer"]:
    """What readers read of writers' streams: a graph's weights by forward products."""
    total: Tensor | None = None
    for number, layer in enumerate(layers):
        mine = readers.layer == number
        total = readers.rows.new_zeros(len(readers), layer.at_mlp.shape[1]) if total is None else total
        total[mine] = torch.einsum("rd,rsd->rs", readers.rows[mine], layer.at_mlp[readers.pos[mine]])
    assert total is not None
    return total


def _unsorted(x: Tensor, order: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out[order] = x
    return out
