"""Which of more active units than a graph has room for are its nodes: those of most influence, layer by layer.

When a layer's turn comes, from the last one down, all that read it and are nodes have been split among those below, so
the influence of its units is known exactly: no rounds of estimates are needed.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.jobs.progress import progress_bar
from caseback.localize.circuits.attribution_graphs.rows import Readers, in_parts, readers_of, split
from caseback.localize.circuits.attribution_graphs.sources import Replacement


def most_influential(
    replaced: Replacement,
    logits: Readers,
    weights: Float[Tensor, " target"],
    most: int,
    *,
    progress: bool = False,
) -> dict[int, Int[Tensor, " some"]]:
    """Of each layer the entries of some units, ``most`` of them in all.

    A layer gets the share of what is left of ``most`` that its units have of all influence on units so far.
    """
    errors = replaced.errors(replaced.every_unit())
    influence = {layer: sources.value.new_zeros(len(sources.pos)) for layer, sources in replaced.sources.items()}

    def add(readers: Readers, counts: Tensor) -> None:
        for some, part in in_parts(replaced, readers):
            one = split(replaced, part, errors)
            sizes = [*one.units.values(), one.errors.flatten(1), one.embed, one.bias[:, None]]
            total = torch.stack([size.abs().sum(1) for size in sizes]).sum(0)
            share = counts[some] / total.clamp_min(torch.finfo(counts.dtype).tiny)
            for layer, units in one.units.items():
                influence[layer] += share @ units.abs()

    add(logits, weights.to(logits.rows.dtype))
    chosen = {layer: sources.pos[:0] for layer, sources in replaced.sources.items()}
    left = most
    for layer in progress_bar(sorted(replaced.sources, reverse=True), "choosing", unit="layer", show=progress):
        own = influence[layer]
        so_far = float(sum(influence[lower].sum() for lower in replaced.sources if lower <= layer))
        count = min(left, len(own), round(left * float(own.sum()) / so_far) if so_far else 0)
        chosen[layer] = own.topk(count).indices.sort().values
        left -= count
        if count:
            add(readers_of(replaced, layer, chosen[layer]), own[chosen[layer]])
    return chosen
