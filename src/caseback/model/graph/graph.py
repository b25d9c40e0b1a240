"""The graph of a model: who writes to the stream, who reads from it, and which edges there are.

Writers are the embedding, every head and every MLP; readers are every head's query, key and value, every MLP and the
logits. A reader reads every writer before it: heads those of earlier layers, an MLP also the heads of its own layer
unless they run in parallel. With grouped heads keys and values are read once per key/value head.

GPT-2 small: 157 writers, 445 readers, 32,491 edges.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool
from torch import Tensor

from caseback.errors import CasebackError
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.stream import expect_sums
from caseback.model.circuit import SLOTS, Circuit, Edge, Node

Reader = tuple[Node, str]
"""A node and the slot that it reads through: "q", "k" or "v" for heads, "" for others."""


@dataclass(frozen=True)
class Layer:
    """How many heads a layer has, and whether its MLP reads them."""

    n_heads: int
    n_kv_heads: int
    parallel: bool = False
    mlp: bool = True


@dataclass(frozen=True)
class Graph:
    """All components of a model and the edges between them.

    Attributes
    ----------
    layers
        One entry per layer.
    inputs
        The first writers: ``("embed",)`` takes token and position embeddings as one.

    Examples
    --------
    >>> gpt2 = Graph((Layer(12, 12),) * 12)
    >>> len(gpt2.writers), len(gpt2.readers), int(gpt2.exists.sum())
    (157, 445, 32491)
    """

    layers: tuple[Layer, ...]
    inputs: tuple[str, ...] = field(default=("embed",))

    @classmethod
    def of(cls, anatomy: Anatomy, inputs: tuple[str, ...] = ("embed",)) -> Graph:
        """The graph of a model.

        Parameters
        ----------
        anatomy
            The model's anatomy.
        inputs
            ``("embed",)``, or ``("embed", "pos_embed")`` to tell them apart where positions are embedded.
        """
        expect_sums(anatomy, "a graph of writers and readers")
        if not isinstance(inputs, tuple | list) or not {"embed"} <= set(map(str, inputs)) <= {"embed", "pos_embed"}:
            raise CasebackError(f"inputs={inputs!r}: expected ('embed',) or ('embed', 'pos_embed')")
        if "pos_embed" in inputs and "pos_embed" in anatomy.lacks:
            raise CasebackError(f"this model has no position embeddings: {anatomy.lacks['pos_embed']}")
        layers = (Layer(p.dims.n_heads, p.dims.n_kv_heads, p.parallel) for p in anatomy.layers)
        return cls(tuple(layers), inputs)

    @cached_property
    def writers(self) -> list[Node]:
        """In the order of computation: inputs, then each layer's heads and MLP."""
        nodes = [Node(name) for name in self.inputs]
        for i, layer in enumerate(self.layers):
            nodes += [Node("head", i, h) for h in range(layer.n_heads)]
            nodes += [Node("mlp", i)] if layer.mlp else []
        return nodes

    @cached_property
    def readers(self) -> list[Reader]:
        """Each layer's queries, keys, values and MLP, then the logits."""
        pairs: list[Reader] = []
        for i, layer in enumerate(self.layers):
            shared = "kv_head" if layer.n_kv_heads < layer.n_heads else "head"
            for slot in SLOTS:
                kind, count = ("head", layer.n_heads) if slot == "q" else (shared, layer.n_kv_heads)
                pairs += [(Node(kind, i, h), slot) for h in range(count)]
            pairs += [(Node("mlp", i), "")] if layer.mlp else []
        return [*pairs, (Node("logits"), "")]

    @cached_property
    def exists(self) -> Bool[Tensor, "writer reader"]:
        """Which writer each reader reads."""
        nodes = [node for node, _ in self.readers]
        written = torch.tensor([writer.layer for writer in self.writers])[:, None]
        read = torch.tensor([node.layer for node in nodes])
        of_heads = torch.tensor([writer.kind == "head" for writer in self.writers])[:, None]
        after_heads = torch.tensor([node.kind == "mlp" and not self.layers[node.layer].parallel for node in nodes])
        last = torch.tensor([node.kind == "logits" for node in nodes])
        return last | (written < read) | ((written == read) & of_heads & after_heads)

    @cached_property
    def edges(self) -> list[Edge]:
        """All edges, reader by reader."""
        pairs = self.exists.T.nonzero().tolist()
        return [Edge(self.writers[w], *self.readers[r]) for r, w in pairs]

    def mask(self, circuit: Circuit) -> Bool[Tensor, "writer reader"]:
        """Which edges of this graph a circuit has.

        Raises
        ------
        CasebackError
            For a circuit with an edge that this graph lacks, which is then of another model.
        """
        writers = {node: i for i, node in enumerate(self.writers)}
        readers = {reader: i for i, reader in enumerate(self.readers)}
        mask = torch.zeros_like(self.exists)
        for edge in circuit.edges:
            w, r = writers.get(edge.source), readers.get((edge.target, edge.slot))
            if w is None or r is None or not self.exists[w, r]:
                raise CasebackError(
                    f"this model has no edge {edge}: the circuit is of another model, or names positions"
                )
            mask[w, r] = True
        return mask

    def circuit(self, mask: Bool[Tensor, "writer reader"]) -> Circuit:
        """The circuit of the edges in a mask.

        Raises
        ------
        CasebackError
            For a mask of another shape, or with edges that do not exist.
        """
        if mask.shape != self.exists.shape or bool((mask & ~self.exists).any()):
            shape = tuple(self.exists.shape)
            raise CasebackError(f"a mask of this graph is (writer, reader) {shape}, false where there is no edge")
        return Circuit(frozenset(Edge(self.writers[w], *self.readers[r]) for w, r in mask.nonzero().tolist()))

    def between(self, nodes: Iterable[Node]) -> Bool[Tensor, "writer reader"]:
        """All edges between some nodes, the inputs and the logits; a shared key/value head goes with its query heads.

        Raises
        ------
        CasebackError
            For a node that this graph lacks.
        """
        chosen = {*self.writers[: len(self.inputs)], *nodes} - {Node("logits")}
        strange = next((node for node in chosen if node not in self.writers), None)
        if strange is not None:
            raise CasebackError(f"this model has no node {strange}: it is of another model, or names a position")
        writers = torch.tensor([node in chosen for node in self.writers])
        readers = [node.kind == "logits" or not chosen.isdisjoint(self.fed_by(node)) for node, _ in self.readers]
        return self.exists & writers[:, None] & torch.tensor(readers)

    def into(self, readers: Iterable[str]) -> Bool[Tensor, "writer reader"]:
        """All edges into some readers, named ``L1H4.k``, ``MLP 2``, ``logits``: a circuit of heads' inputs.

        Raises
        ------
        CasebackError
            For a reader that this graph lacks.
        """
        named = [f"{node}.{slot}" if slot else str(node) for node, slot in self.readers]
        wanted = list(readers)
        strange = next((name for name in wanted if name not in named), None)
        if strange is not None:
            raise CasebackError(f"nothing in this model reads as {strange!r}: expected L0H1.q, MLP 0, logits …")
        return self.exists & torch.tensor([name in wanted for name in named])

    def connected(self, mask: Bool[Tensor, "writer reader"]) -> Bool[Tensor, "writer reader"]:
        """The edges of a mask that lie on a path from an input to the logits.

        A head that is reached through any of its query, key and value passes on.
        """
        nodes = {node: i for i, node in enumerate(self.writers)}
        # Which writers a reader feeds: a shared key/value head feeds every query head of its group.
        fed = torch.zeros(len(self.readers), len(self.writers), dtype=torch.bool)
        for r, (node, _) in enumerate(self.readers):
            for writer in self.fed_by(node):
                fed[r, nodes[writer]] = True
        reached = torch.zeros(len(self.writers), dtype=torch.bool)
        reached[: len(self.inputs)] = True
        useful = mask[:, -1].clone()
        # Each round carries "reached" and "useful" one step further along a chain; none is longer than this.
        for _ in range(2 * len(self.layers) + 1):
            reached |= ((mask & reached[:, None]).any(0).float() @ fed.float()).bool()
            leads = (fed & useful).any(1)
            leads[-1] = True
            useful |= (mask & leads).any(1)
        leads = (fed & useful).any(1)
        leads[-1] = True
        return mask & reached[:, None] & leads

    def fed_by(self, node: Node) -> list[Node]:
        """The writers that depend on what a node reads: itself, or every query head of a shared key/value head."""
        if node.kind == "kv_head":
            layer = self.layers[node.layer]
            group = layer.n_heads // layer.n_kv_heads
            return [Node("head", node.layer, h) for h in range(node.index * group, (node.index + 1) * group)]
        return [] if node.kind == "logits" else [node]
