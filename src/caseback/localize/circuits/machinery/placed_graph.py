"""A graph's edges place by place: what hangs together where heads carry from one place to another (B.30).

writer at p  ->  reader at p;      an MLP, a head's query at p feed p;      its key, value at p feed every q that sees p
"""

from __future__ import annotations

import heapq

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.model.graph.graph import Graph

Sees = Bool[Tensor, "place place"]
"""Whether a key at the first place can be read by a query at the second, in some prompt."""


def sees_of(begins: Tensor, ends: Tensor) -> Sees:
    """Which places can be read from which, from the first and last positions (place, batch), -1 for none."""
    there = begins >= 0
    return ((begins[:, None] <= ends[None]) & there[:, None] & there[None]).any(-1)


def feeds(graph: Graph, sees: Sees) -> Bool[Tensor, "reader writer place place"]:
    """Whether what a reader reads at the first place reaches what a writer writes at the second."""
    nodes = {node: i for i, node in enumerate(graph.writers)}
    fed = torch.zeros(len(graph.readers), len(nodes), *sees.shape, dtype=torch.bool)
    own = torch.eye(len(sees), dtype=torch.bool)
    for r, (node, slot) in enumerate(graph.readers):
        for writer in graph.fed_by(node):
            fed[r, nodes[writer]] = sees if slot in ("k", "v") else own
    return fed


def connected_at(
    graph: Graph, mask: Bool[Tensor, "place writer reader"], sees: Sees
) -> Bool[Tensor, "place writer reader"]:
    """The edges of a mask that lie on a path from an input to the logits, which may change places inside heads."""
    fed = feeds(graph, sees).float()
    reached, useful = torch.zeros(mask.shape[:2], dtype=torch.bool), mask[:, :, -1].clone()
    reached[:, : len(graph.inputs)] = True

    def leading() -> Bool[Tensor, "place reader"]:
        leads = torch.einsum("rwpq,qw->pr", fed, useful.float()) > 0
        leads[:, -1] = True
        return leads

    for _ in range(2 * len(graph.layers) + 1):  # no chain is longer
        read = (mask & reached[:, :, None]).any(1)
        reached |= torch.einsum("pr,rwpq->qw", read.float(), fed) > 0
        useful |= (mask & leading()[:, None]).any(2)
    return mask & reached[:, :, None] & leading()[:, None]


def greedy_at(graph: Graph, ranked: Float[Tensor, "place writer reader"], n: int, sees: Sees) -> Tensor:
    """From the logits back, n times the best edge into what is reached already; a mask (place, writer, reader)."""
    fed = feeds(graph, sees)
    into = [fed[:, w].nonzero().tolist() for w in range(len(graph.writers))]
    mask = torch.zeros(ranked.shape, dtype=torch.bool)
    heap: list[tuple[float, int, int, int]] = []
    opened: set[tuple[int, int]] = set()
    values, last = ranked.tolist(), len(graph.readers) - 1
    read = [graph.exists[:, r].nonzero()[:, 0].tolist() for r in range(len(graph.readers))]

    def reach(place: int, reader: int) -> None:
        if (place, reader) not in opened:
            opened.add((place, reader))
            for w in read[reader]:
                heapq.heappush(heap, (-values[place][w][reader], place, reader, w))

    for place in range(len(sees)):
        reach(place, last)
    left = n
    while left and heap:
        _, place, r, w = heapq.heappop(heap)
        mask[place, w, r] = True
        left -= 1
        for reader, p, q in into[w]:
            if q == place:
                reach(p, reader)
    return mask
