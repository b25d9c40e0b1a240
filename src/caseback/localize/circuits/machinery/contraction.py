"""Changes of writes times gradients at readers, for every edge, without a tensor of edges.

    score(u -> v) = sum over positions of  change_u . sum over points of weight . d metric / d input_v

The gradients of a layer's heads are averaged over points and pulled back (``pulling``) only when its turn comes, and
contracted with all writers before it in one product. Some prompts (of long ones some positions) are taken at a time, so
that memory is that of their writes: nothing of size (reader, ...) is kept, and nothing of size (edge, ...) is ever
formed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.jobs.budget import limit
from caseback.localize.circuits.machinery.pulling import Pulled, Slope, Streams
from caseback.localize.circuits.machinery.writes import ALL, Part, changes, of_part
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.graph.graph import Graph
from caseback.model.running.model import Model
from caseback.model.running.run import Run


def sites_of_reads(model: Model) -> list[Site]:
    """Where readers read: what a run must read, with its graph, for their gradients."""
    layers = range(model.n_layers)
    blocks = [Site(name, layer) for layer in layers for name in ("q_in", "k_in", "v_in", "mlp_in")]
    return [*blocks, Site("resid_post", model.n_layers - 1)]


@torch.no_grad()
def contracted(
    model: Model,
    graph: Graph,
    base: Run,
    source: Run | Float[Tensor, "writer d_model"] | None,
    slopes: Sequence[Slope],
    writers: slice = slice(None),
    places: Int[Tensor, "batch pos"] | None = None,
    count: int = 1,
) -> Float[Tensor, "batch place writer reader"]:
    """Scores of all edges on all prompts, summed over the positions of each place; NaN where there is no edge.

    Parameters
    ----------
    model, graph
        The model and its graph.
    base, source
        Runs in the same columns, whose writes are compared; or constants in place of the latter, or None for zeros.
    slopes
        Gradients at the readers, of one run or of several points on a way, added by their weights.
    writers
        Which writers' edges are wanted; those of others are NaN.
    places, count
        The number of the place of each column, -1 for padding, and how many places there are; None: one place.
    """
    batch, width = base.tokens.shape
    last = sites_of_reads(model)[-1]
    like = slopes[0].gradients[last.name, last.layer]
    scores = torch.zeros(batch, count, *graph.exists.shape, device=like.device, dtype=at_least_float32(like).dtype)
    chosen = range(len(graph.writers))[writers]
    # writers stand in the order of computation, so those that a reader reads come first
    before = graph.exists.sum(0).tolist()
    apart = [r for r, (node, _) in enumerate(graph.readers) if node.kind in ("mlp", "logits")]
    columns = torch.tensor(apart, device=like.device)
    for part in _parts(batch, width, len(graph.writers) * model.d_model, scores):
        change = changes(model, base, source, graph, part)[:, writers]
        at = None if places is None else _one_hot(of_part(places, part).to(like.device), count).to(change)
        into = scores[part[0], :, chosen.start : chosen.stop]
        streams = Streams(model, slopes, part)
        start = 0
        for layer in range(model.n_layers):
            read = min(len(chosen), max(0, before[start] - chosen.start))
            pulled = streams.pulled(layer) if read else None
            stop = next(r for r in apart if r >= start)
            if pulled is not None:
                _add(into[:, :, :read, start:stop], change[:, :read], pulled, at)
            start = stop + 1
        plain = torch.stack([_average(slopes, site, part).to(like.device) for site in _plain_readers(model)])
        products = into.new_zeros(*into.shape[:3], len(plain))
        _add(products, change, Pulled(plain), at)
        into.index_add_(3, columns, products)
    wanted = torch.zeros_like(graph.exists)
    wanted[writers] = graph.exists[writers]
    return scores.masked_fill_(~wanted.to(scores.device), torch.nan)


def _plain_readers(model: Model) -> list[Site]:
    """Readers whose gradient is read as it is: each layer's MLP, then the logits."""
    return [site for site in sites_of_reads(model) if site.name in ("mlp_in", "resid_post")]


def _average(slopes: Sequence[Slope], site: Site, part: Part) -> Float[Tensor, "batch pos d_model"]:
    first, *others = (slope.averaged(site, part) for slope in slopes)
    for other in others:
        first = first + other
    return first


def _one_hot(places: Int[Tensor, "batch pos"], count: int) -> Tensor:
    """(batch, place, pos), 1 where a column is in a place."""
    return places[:, None] == torch.arange(count, device=places.device)[:, None]


def _add(
    into: Float[Tensor, "batch place writer reader"],
    change: Float[Tensor, "batch writer pos d_model"],
    pulled: Pulled,
    at: Float[Tensor, "batch place pos"] | None,
) -> None:
    """Add changes times gradients, summed over all positions, or over those of each place."""
    fixed, unit, along = pulled
    by_position = change.transpose(1, 2).flatten(0, 1)
    moved = None if unit is None else torch.bmm(by_position, unit.to(change).permute(0, 2, 3, 1).flatten(0, 1))
    if at is None:
        total = into[:, 0]
        total.baddbmm_(change.flatten(2), fixed.to(change).permute(1, 2, 3, 0).flatten(1, 2))
        if moved is not None and along is not None:
            moved = moved.unflatten(0, change.shape[0:3:2]).transpose(1, 2).flatten(2)
            total.baddbmm_(moved, along.to(change).transpose(1, 2).flatten(1, 2), alpha=-1)
        return
    each = torch.bmm(by_position, fixed.to(change).permute(1, 2, 3, 0).flatten(0, 1))
    if moved is not None and along is not None:
        each.baddbmm_(moved, along.to(change).transpose(1, 2).flatten(0, 1), alpha=-1)
    into += (at @ each.view(*at.shape[0:3:2], -1)).unflatten(2, each.shape[1:])


def _parts(batch: int, width: int, numbers: int, like: Tensor) -> Iterator[Part]:
    """Prompts, and columns of them, that fit the budget where a token's writes are so many numbers."""
    # as many again for what the readers of a layer read, and for a product's own room
    most = limit("contraction_numbers", like.device, each=3 * like.element_size())
    columns = min(width, max(1, most // numbers))
    prompts = max(1, most // (numbers * columns))
    if columns == width and prompts >= batch:
        yield ALL
        return
    for b in range(0, batch, prompts):
        for c in range(0, width, columns):
            yield slice(b, min(b + prompts, batch)), slice(c, min(c + columns, width))
