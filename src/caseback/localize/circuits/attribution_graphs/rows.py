"""Rows of an attribution graph: what each reader reads, split among all who wrote it.

    row_t,s = (r_t pulled down to where s writes) . (what s writes)        sum_s row_t,s + biases = value_t

The readers' directions go down through the layers together, from the last to the first: a reader joins at its own
layer, and at each layer all sources there are contracted with all readers above in one product. Nothing of the size
readers x sources x positions is formed, and readers are taken some at a time where readers x positions x d_model, or
readers x sources, would not fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.jobs.budget import limit
from caseback.localize.circuits.attribution_graphs.frozen import Rows
from caseback.localize.circuits.attribution_graphs.sources import Replacement


@dataclass(frozen=True)
class Readers:
    """Directions of the stream at places.

    Attributes
    ----------
    layer, pos
        Where each reads: the stream before that layer's MLP, or after the last layer for the number of layers.
    rows
        (row, d_model), what it reads.
    value
        (row), what it is on the prompt: its row and its biases sum to this.
    """

    layer: Int[Tensor, " row"]
    pos: Int[Tensor, " row"]
    rows: Float[Tensor, "row d_model"]
    value: Float[Tensor, " row"]

    def __len__(self) -> int:
        return len(self.layer)

    def __getitem__(self, some: slice | Tensor) -> Readers:
        return Readers(self.layer[some], self.pos[some], self.rows[some], self.value[some])


@dataclass(frozen=True)
class Split:
    """The rows of some readers.

    Attributes
    ----------
    units
        By layer, (row, entry): through each active unit there.
    errors
        (row, layer, pos): through what units leave of each MLP.
    embed
        (row, pos): through each embedding.
    bias
        (row): through all biases.
    """

    units: dict[int, Float[Tensor, "row entry"]]
    errors: Float[Tensor, "row layer pos"]
    embed: Float[Tensor, "row pos"]
    bias: Float[Tensor, " row"]


def readers_of(replaced: Replacement, layer: int, entries: Int[Tensor, " some"]) -> Readers:
    """Some active units of a layer as readers."""
    sources = replaced.sources[layer]
    layers = torch.full_like(sources.pos[entries], layer)
    return Readers(layers, sources.pos[entries], sources.reads(entries), sources.value[entries])


def joined(parts: list[Readers]) -> Readers:
    """Readers of several layers as one."""
    return Readers(*(torch.cat([getattr(part, name) for part in parts]) for name in ("layer", "pos", "rows", "value")))


def in_parts(replaced: Replacement, readers: Readers) -> Iterator[tuple[Tensor, Readers]]:
    """Readers some at a time, those of later layers first, with their numbers."""
    order = readers.layer.argsort(descending=True, stable=True)
    network = replaced.network
    heads = max(p.dims.n_heads * p.d_z for p in network.model.anatomy.layers)
    numbers = network.n_positions * (network.model.d_model + 2 * heads)
    numbers += sum(len(sources.pos) for sources in replaced.sources.values())
    for some in order.split(max(1, limit("graph_numbers", network.model.device) // numbers)):
        yield some, readers[some]


@torch.no_grad()
def split(replaced: Replacement, readers: Readers, errors: Float[Tensor, "layer pos d_model"]) -> Split:
    """What each of some readers reads, among all who wrote it.

    Parameters
    ----------
    replaced
        The network.
    readers
        Those of later layers first.
    errors
        What is left of each MLP's write.
    """
    network = replaced.network
    like, rows = readers.rows, len(readers)
    units = {layer: like.new_zeros(rows, len(sources.pos)) for layer, sources in replaced.sources.items()}
    through_errors = like.new_zeros(rows, network.n_layers, network.n_positions)
    above = like.new_zeros(network.n_positions, rows, network.model.d_model)
    for layer, active, _ in downward(replaced, readers, above):
        here = active.shape[1]
        for of, sources in replaced.sources.items():
            if here and layer in sources.reached():
                units[of][:here] += sources.contract(active, layer)
        through_errors[:here, layer] = torch.einsum("prd,pd->rp", active, errors[layer])
    embed = torch.einsum("prd,pd->rp", above, network.at("resid_pre", 0))
    return Split(units, through_errors, embed, biases(replaced, readers))


def downward(replaced: Replacement, readers: Readers, above: Rows) -> Iterator[tuple[int, Rows, Rows]]:
    """Pull readers' directions down, layer by layer; ``above``, zeros at first, holds those below the first at the end.

    Yields
    ------
    tuple
        A layer; what is read of the stream after it; what is read of what its attention writes. Of the readers that
        have joined so far, which come first: those of later layers.
    """
    network = replaced.network
    numbers, here = torch.bincount(readers.layer, minlength=network.n_layers + 1).tolist(), 0

    def join(layer: int) -> int:
        """Put the readers of a layer among those of later ones; how many there are now."""
        new = slice(here, here + numbers[layer])
        above[readers.pos[new], torch.arange(new.start, new.stop, device=above.device)] += readers.rows[new]
        return new.stop

    here = join(network.n_layers)
    for layer in reversed(range(network.n_layers)):
        after = above[:, :here]
        skip = replaced.pull_skip(layer, after)
        if network.parallel(layer):
            yield layer, after, after
            above[:, :here] += network.attention[layer].pull(after) + (0 if skip is None else skip)
            here = join(layer)
        else:
            if skip is not None:
                after = after.clone()
                above[:, :here] += skip
            here = join(layer)
            yield layer, after, above[:, :here]
            above[:, :here] += network.attention[layer].pull(above[:, :here])


def biases(replaced: Replacement, readers: Readers) -> Float[Tensor, " row"]:
    """What of each reader's value is due to biases: those on the way, and its own."""
    network = replaced.network
    read = [network.at("mlp_in", layer) for layer in range(network.n_layers)]
    streams = torch.stack([*read, network.at("resid_post", network.n_layers - 1)])
    sent = streams - replaced.constants[1]
    return readers.value - (readers.rows * sent[readers.layer, readers.pos]).sum(-1)
