"""Where what each writer wrote stands in the stream, layer by layer: a graph's forward products.

    F_s = a_s w_s below the next layer, then F_s + attention of F_s, ...           linear, so streams add up

Contracted with what a reader reads these are the weights again, and between the two ways lie the heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from caseback.localize.circuits.attribution_graphs.frozen import Rows
from caseback.localize.circuits.attribution_graphs.restored import places_of
from caseback.localize.circuits.attribution_graphs.sources import Replacement
from caseback.model.graph.names import parse_name


class Layer(NamedTuple):
    """The writers' streams at one layer.

    Attributes
    ----------
    before
        Before attention.
    z
        Each head's z of them.
    at_mlp
        Before the MLP.
    """

    before: Rows
    z: Tensor
    at_mlp: Rows


def own_writes(replaced: Replacement, names: Sequence[str], errors: Tensor) -> dict[int, Tensor]:
    """What writers write: by layer after whose MLP it stands (-1 for embeddings), (pos, writer, d_model)."""
    network = replaced.network
    start = network.at("resid_pre", 0)
    written: dict[int, Tensor] = {}

    def at(layer: int) -> Tensor:
        return written.setdefault(layer, start.new_zeros(len(start), len(names), start.shape[1]))

    for column, name in enumerate(names):
        node = parse_name(name)
        if node.kind == "embed":
            at(-1)[int(node.pos), column] = start[int(node.pos)]
        elif node.kind in ("error", "mlp"):
            at(node.layer)[int(node.pos), column] = errors[node.layer, int(node.pos)]
    for layer, (columns, entries) in places_of(replaced, names).items():
        sources = replaced.sources[layer]
        for target in sources.reached():
            at(target)[sources.pos[entries], torch.as_tensor(columns, device=start.device)] += sources.each_written(
                entries, target
            )
    return written


def streams(replaced: Replacement, written: dict[int, Tensor], *, attend: bool = True) -> Iterator[Layer]:
    """The writers' streams through the layers, or where no head carries them; then that after the last layer."""
    network = replaced.network
    like = next(iter(written.values()))
    stream = written.get(-1, torch.zeros_like(like)).clone()
    for layer in range(network.n_layers):
        z = network.attention[layer].push_values(stream) if attend else stream.new_zeros(0)
        attention = network.attention[layer].push_z(z) if attend else torch.zeros_like(stream)
        read = stream if network.parallel(layer) else stream + attention
        yield Layer(stream, z, read)
        stream = stream + attention
        skip = replaced.skipped(layer, read)
        stream = stream if skip is None else stream + skip
        if layer in written:
            stream = stream + written[layer]
    yield Layer(stream, stream.new_zeros(0), stream)
