"""Where what each writer wrote stands in the stream, layer by layer: a graph's forward products.

    F_s = a_s w_s below the next layer, then F_s + attention of F_s, ...           linear, so streams add up

Contracted with what a reader reads these are the weights again, and between the two ways lie the heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.jobs.budget import limit
from caseback.localize.circuits.attribution_graphs.frozen import Rows
from caseback.localize.circuits.attribution_graphs.restored import places_of
from caseback.localize.circuits.attribution_graphs.sources import Replacement
from caseback.model.graph.names import parse_name


class Layer(NamedTuple):
    """The writers' streams at one layer, until the next is asked for.

    Attributes
    ----------
    number
        Of the layer; that after the last is what logits are read from.
    before
        Before attention.
    z
        Each head's z of them.
    at_mlp
        Before the MLP.
    """

    number: int
    before: Rows
    z: Tensor
    at_mlp: Rows


class Entries(NamedTuple):
    """What is written to one layer's stream: each vector at a position, by a writer."""

    pos: Int[Tensor, " entry"]
    writer: Int[Tensor, " entry"]
    vector: Float[Tensor, "entry d_model"]


@dataclass(frozen=True)
class Writes:
    """What writers write, by layer after whose MLP it stands (-1 for embeddings).

    Most write at one position of one layer, so that entries are few where (pos, writer, d_model) of each layer is not.
    """

    entries: dict[int, Entries]
    n_writers: int

    def in_parts(self, replaced: Replacement) -> Iterator[tuple[Int[Tensor, " some"], Writes]]:
        """Writers some at a time, those of earlier layers first, with their numbers."""
        start = replaced.network.at("resid_pre", 0)
        first = torch.full((self.n_writers,), replaced.network.n_layers, device=start.device)
        for layer in sorted(self.entries, reverse=True):
            first[self.entries[layer].writer] = layer
        for some in first.argsort(stable=True).split(max(1, limit("graph_stream", start.device) // start.numel())):
            place = torch.full_like(first, -1)
            place[some] = torch.arange(len(some), device=start.device)
            yield some, Writes({layer: part for layer, part in self._at(place) if len(part.pos)}, len(some))

    def _at(self, place: Int[Tensor, " writer"]) -> Iterator[tuple[int, Entries]]:
        """The entries of writers that have a place, numbered by it."""
        for layer, (pos, writer, vector) in self.entries.items():
            mine = place[writer] >= 0
            yield layer, Entries(pos[mine], place[writer[mine]], vector[mine])


def own_writes(replaced: Replacement, names: Sequence[str], errors: Float[Tensor, "layer pos d_model"]) -> Writes:
    """What each of some writers writes, and where."""
    start = replaced.network.at("resid_pre", 0)
    given: dict[int, list[tuple[int, int]]] = {}
    for column, name in enumerate(names):
        node = parse_name(name)
        if node.kind in ("embed", "error", "mlp"):
            given.setdefault(-1 if node.kind == "embed" else node.layer, []).append((int(node.pos), column))
    entries: dict[int, list[Entries]] = {}
    for layer, rows in given.items():
        pos, column = torch.tensor(rows, device=start.device).T
        entries[layer] = [Entries(pos, column, (start if layer < 0 else errors[layer])[pos])]
    for layer, (columns, units) in places_of(replaced, names).items():
        sources, numbers = replaced.sources[layer], torch.as_tensor(columns, device=start.device)
        for target in sources.reached():
            written = Entries(sources.pos[units], numbers, sources.each_written(units, target))
            entries.setdefault(target, []).append(written)
    joined = {layer: Entries(*map(torch.cat, zip(*parts, strict=True))) for layer, parts in entries.items()}
    return Writes(joined, len(names))


def streams(replaced: Replacement, written: Writes, *, attend: bool = True) -> Iterator[Layer]:
    """The writers' streams through the layers, or where no head carries them; then that after the last layer.

    From the first layer on that reads what one of them wrote.
    """
    network = replaced.network
    start = network.at("resid_pre", 0)
    stream = start.new_zeros(len(start), written.n_writers, start.shape[1])

    def write(layer: int) -> None:
        if layer in written.entries:
            pos, writer, vector = written.entries[layer]
            stream[pos, writer] += vector

    first = min(written.entries, default=network.n_layers - 1)
    write(first)
    for layer in range(first + 1, network.n_layers):
        attention = network.attention[layer]
        z = attention.push_values(stream) if attend else stream.new_zeros(0)
        after = stream + attention.push_z(z) if attend else stream
        read = stream if network.parallel(layer) else after
        yield Layer(layer, stream, z, read)
        skip = replaced.skipped(layer, read)
        stream = after if skip is None else after + skip
        write(layer)  # in place: nobody looks at the layer before any more
    yield Layer(network.n_layers, stream, stream.new_zeros(0), stream)
