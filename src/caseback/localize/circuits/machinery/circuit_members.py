"""The parts that a circuit is taken apart into, and how it is run without some of them (PRIMER 3.2.21).

A node is removed by cutting all edges out of it, an edge by cutting it. C - K is the circuit without the parts K,
M - K the whole model without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.localize.circuits.machinery.circuit_runs import CircuitRuns
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph

OF = ("nodes", "edges")


@dataclass(frozen=True)
class Parts:
    """A circuit's parts by name, each with the edges that go with it.

    Attributes
    ----------
    graph, circuit
        The model's graph, and the circuit's edges as a mask of it.
    names
        Of the parts.
    cuts
        (part, writer, reader): the edges of the whole model that are cut when a part is removed.
    """

    graph: Graph
    circuit: Bool[Tensor, "writer reader"]
    names: list[str]
    cuts: Bool[Tensor, "part writer reader"]

    @classmethod
    def of(cls, graph: Graph, circuit: Circuit, of: str) -> Parts:
        """Nodes (heads and MLPs that write along some edge) or edges of a circuit, in the order of computation.

        Raises
        ------
        CasebackError
            For an unknown kind of part, a circuit of another model, or one without such parts.
        """
        if of not in OF:
            raise CasebackError(f"of {of!r} is unknown. {did_you_mean(of, OF)}")
        mask = graph.mask(circuit)
        if of == "nodes":
            at = [i for i in mask.any(1).nonzero()[:, 0].tolist() if i >= len(graph.inputs)]
            names = [str(graph.writers[i]) for i in at]
            cuts = torch.zeros(len(at), *mask.shape, dtype=torch.bool)
            cuts[torch.arange(len(at)), at] = True
        else:
            pairs = mask.nonzero()
            edges = [(graph.writers[w], *graph.readers[r]) for w, r in pairs.tolist()]
            names = [f"{u} -> {v}{f'.{slot}' if slot else ''}" for u, v, slot in edges]
            cuts = torch.zeros(len(pairs), *mask.shape, dtype=torch.bool)
            cuts[torch.arange(len(pairs)), pairs[:, 0], pairs[:, 1]] = True
        if not names:
            raise CasebackError(f"the circuit has no {of} to take away: it has {int(mask.sum())} edges")
        return cls(graph, mask, names, cuts)

    def without(self, removed: Bool[Tensor, "set part"]) -> Bool[Tensor, "set writer reader"]:
        """Which edges sets of parts leave uncut."""
        flat = removed.float() @ self.cuts.flatten(1).float()
        return (flat == 0).view(len(removed), *self.circuit.shape)

    def gaps(
        self, runs: CircuitRuns, removed: Bool[Tensor, "set part"], progress: bool = False
    ) -> tuple[Float[Tensor, "set batch"], Float[Tensor, "set batch"]]:
        """The metric of C - K and of M - K for sets K of parts."""
        left = self.without(removed)
        both = torch.cat([self.circuit & left, self.graph.exists & left])
        values = runs.metrics(both, progress=progress)
        return values[: len(removed)], values[len(removed) :]

    def text(self, removed: Bool[Tensor, " part"]) -> str:
        """A set of parts as text."""
        return ", ".join(name for name, out in zip(self.names, removed.tolist(), strict=True) if out)

    def random(self, count: int, seed: int) -> Bool[Tensor, "set part"]:
        """Sets that hold each part with probability one half."""
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(count, len(self.names), generator=generator) < 0.5


def grouped(parts: Parts, groups: Sequence[Sequence[str]]) -> Bool[Tensor, "set part"]:
    """Sets of parts given by name.

    Raises
    ------
    CasebackError
        For a name that is not a part of the circuit.
    """
    sets = torch.zeros(len(groups), len(parts.names), dtype=torch.bool)
    for i, names in enumerate(groups):
        for name in names:
            if name not in parts.names:
                raise CasebackError(f"{name!r} is not a part of this circuit. {did_you_mean(name, parts.names)}")
            sets[i, parts.names.index(name)] = True
    return sets
