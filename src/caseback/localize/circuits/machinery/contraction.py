"""Changes of writes times gradients at readers, for every edge, without a tensor of edges.

    score(u -> v) = sum over positions of  change_u . sum over runs of weight . d metric / d input_v

A head's gradient is pulled back through its W and the norm only when its layer's turn comes, and contracted with all
writers before it in one matrix product. Some prompts (of long ones some positions) are taken at a time, so that memory
is that of their writes: nothing of size (reader, ...) is kept, and nothing of size (edge, ...) is ever formed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.jobs.budget import limit
from caseback.localize.circuits.machinery.writes import Part, changes
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.graph.graph import Graph
from caseback.model.running.model import Model
from caseback.model.running.run import Run


@dataclass(frozen=True)
class Slope:
    """A run's gradients at its readers, heads' still at their projections' outputs, and how much they count."""

    weight: float
    run: Run
    gradients: Run


def sites_of_reads(model: Model) -> list[Site]:
    """Where readers read: what a run must read, with its graph, for their gradients."""
    layers = range(model.n_layers)
    blocks = [Site(name, layer) for layer in layers for name in ("q_in", "k_in", "v_in", "mlp_in")]
    return [*blocks, Site("resid_post", model.n_layers - 1)]


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
    like = base[slopes[0].gradients.sites[-1]]
    scores = torch.full(
        (batch, count, *graph.exists.shape), torch.nan, device=like.device, dtype=at_least_float32(like).dtype
    )
    chosen = range(len(graph.writers))[writers]
    for part in _parts(batch, width, len(graph.writers) * model.d_model):
        change = changes(model, base, source, graph, part)[:, writers]
        start = 0
        for g in at_readers(model, slopes, part):
            readers = slice(start, start + g.shape[1])
            start = readers.stop
            # writers stand in the order of computation, so those that a reader reads come first
            read = min(len(chosen), max(0, int(graph.exists[:, readers.start].sum()) - chosen.start))
            if read == 0:
                continue
            products = _products(change[:, :read], g.to(change), None if places is None else places[part], count)
            into = scores[part[0], :, chosen.start : chosen.start + read, readers]
            # the positions of long prompts come in several parts, whose products add up
            into.copy_(products if part[1].start == 0 else into + products)
    return scores


def _products(
    change: Float[Tensor, "batch writer pos d_model"],
    g: Float[Tensor, "batch reader pos d_model"],
    places: Int[Tensor, "batch pos"] | None,
    count: int,
) -> Float[Tensor, "batch place writer reader"]:
    """Changes times gradients, summed over all positions, or over those of each place."""
    if places is None:
        return (change.flatten(2) @ g.flatten(2).transpose(1, 2))[:, None]
    each = change.transpose(1, 2) @ g.permute(0, 2, 3, 1)
    at = (places[:, None] == torch.arange(count)[:, None]).to(each)
    return (at @ each.flatten(2)).unflatten(2, each.shape[2:])


def at_readers(
    model: Model, slopes: Sequence[Slope], part: Part
) -> Iterator[Float[Tensor, "batch reader pos d_model"]]:
    """Gradients at the readers' inputs, a layer's heads and its MLP apart, then the logits'; in the graph's order."""

    def plain(name: str, layer: int) -> Tensor:
        total = sum(s.weight * at_least_float32(s.gradients[name, layer][part]) for s in slopes)
        assert isinstance(total, Tensor)
        return total[:, None]

    for layer in range(model.n_layers):
        heads: list[Tensor] = []
        for name in ("q_in", "k_in", "v_in"):
            total: Tensor | None = None
            for s in slopes:
                pulled = at_least_float32(s.run.pulled(Site(name, layer), s.gradients[name, layer], part))
                pulled = pulled if s.weight == 1.0 else pulled.mul_(s.weight)
                total = pulled if total is None else total.add_(pulled)
            assert total is not None
            heads.append(total.transpose(1, 2))
        yield torch.cat(heads, 1)
        del heads
        yield plain("mlp_in", layer)
    yield plain("resid_post", model.n_layers - 1)


def _parts(batch: int, width: int, numbers: int) -> Iterator[Part]:
    """Prompts, and columns of them, that fit the budget where a token's writes are so many numbers."""
    columns = min(width, max(1, limit("contraction_numbers") // numbers))
    prompts = max(1, limit("contraction_numbers") // (numbers * columns))
    for b in range(0, batch, prompts):
        for c in range(0, width, columns):
            yield slice(b, min(b + prompts, batch)), slice(c, min(c + columns, width))
