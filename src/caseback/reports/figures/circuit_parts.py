"""A circuit's members as plain data: where each stands in the order of computation, and what its edges count for."""

from __future__ import annotations

from dataclasses import dataclass

from caseback.model.arguments import checked
from caseback.model.circuit import Circuit

__all__ = ["CircuitParts", "circuit_parts"]


@dataclass(frozen=True)
class CircuitParts:
    """Nodes in rows from the embeddings upwards, and edges between them.

    Attributes
    ----------
    rows
        Names of the nodes that stand at one depth, the lowest first.
    roles
        What nodes do, by name; of those only that have a role.
    edges
        (from, to, slot, support): the support is the edge's score, positive where it counts for the answer; None for
        an edge without a score.
    """

    rows: list[list[str]]
    roles: dict[str, str]
    edges: list[tuple[str, str, str, float | None]]


@checked
def circuit_parts(circuit: Circuit) -> CircuitParts:
    """A circuit's members in the order of computation.

    Parameters
    ----------
    circuit
        The circuit.

    Examples
    --------
    >>> parts = circuit_parts(Circuit.of("embed -> L0H1.v", "L0H1 -> logits"))
    >>> parts.rows, parts.edges[1]
    ([['embed'], ['L0H1'], ['logits']], ('embed', 'L0H1', 'v', None))
    """
    depths: dict[tuple[int, int], list[str]] = {}
    for node in sorted(circuit.nodes, key=lambda node: (node.depth, node)):
        depths.setdefault(node.depth, []).append(str(node))
    # under noising an edge counts for the answer where cutting it lowers the metric
    supports = -1.0 if circuit.about.get("direction") == "noising" else 1.0
    scores = circuit.scores
    edges = [
        (str(edge.source), str(edge.target), edge.slot, supports * float(scores[edge]) if edge in scores else None)
        for edge in sorted(circuit.edges, key=str)
    ]
    roles = {str(node): role for node, role in circuit.roles.items()}
    return CircuitParts([depths[depth] for depth in sorted(depths)], roles, edges)
