"""How large a circuit is: edges, nodes, heads, and edges weighted by how much of their writer it has (PRIMER 3.2.21).

    weighted edges = sum over edges (u -> v) of  |units of u in the circuit| / |units of u|

Weighting makes circuits of neurons comparable with circuits of whole components: an edge out of an MLP of which the
circuit names a tenth of the neurons counts a tenth.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from caseback.errors import CasebackError
from caseback.model.anatomy.dense import weight_shape
from caseback.model.arguments import checked
from caseback.model.circuit import Circuit, Node
from caseback.model.graph.graph import Graph
from caseback.model.running.model import Model


@checked
def circuit_size(model: Model, circuit: Circuit, inputs: tuple[str, ...] | None = None) -> dict[str, float]:
    """Count what a circuit has.

    Parameters
    ----------
    model
        The model. The circuit is one of its own.
    circuit
        The circuit; its edges may name positions and neurons.
    inputs
        As for ``run_circuit``; by default as the circuit names them.

    Returns
    -------
    dict
        ``edges`` and their ``share`` of the model's, ``weighted_edges``, ``nodes``, ``heads``, ``mlps``, ``neurons``,
        and ``dangling``: edges that lie on no path from an input to the logits.

    Raises
    ------
    CasebackError
        For a circuit of another model.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> size = circuit_size(model, cb.Circuit.of("embed -> L0H1.v", "L0H1 -> logits", "MLP 0 -> logits"))
    >>> size["edges"], size["heads"], size["mlps"], size["dangling"]
    (3, 1, 1, 1)
    """
    graph = Graph.of(model.anatomy, inputs or inputs_of(circuit))
    whole = _whole(circuit)
    mask = graph.mask(whole)
    kinds = Counter(node.kind for node in circuit.at_all_positions().nodes)
    named = Counter(node.layer for node in circuit.at_all_positions().nodes if node.kind == "neuron")
    weighted = 0.0
    for edge in circuit.at_all_positions().edges:
        layer = edge.source.layer
        if edge.source.kind == "neuron":
            weighted += 1 / _width(model, layer)
        elif edge.source.kind == "mlp" and named[layer]:
            weighted += named[layer] / _width(model, layer)
        else:
            weighted += 1
    return {
        "edges": len(circuit.edges),
        "share": int(mask.sum()) / len(graph.edges),
        "weighted_edges": weighted,
        "nodes": len(circuit.nodes),
        "heads": kinds["head"],
        "mlps": kinds["mlp"],
        "neurons": kinds["neuron"],
        "dangling": int((mask & ~graph.connected(mask)).sum()),
    }


def inputs_of(circuit: Circuit) -> tuple[str, ...]:
    """Whether a circuit tells token and position embeddings apart."""
    apart = any(node.kind == "pos_embed" for node in circuit.nodes)
    return ("embed", "pos_embed") if apart else ("embed",)


def _width(model: Model, layer: int) -> int:
    w_out = model.anatomy.layers[layer].w_out
    if w_out is None:
        raise CasebackError(f"the MLP of layer {layer} has no one list of neurons to weigh edges by")
    return weight_shape(w_out)[0]


def _whole(circuit: Circuit) -> Circuit:
    """Edges between whole components at all positions, those of a neuron being its MLP's."""

    def bare(node: Node) -> Node:
        return replace(node, kind="mlp", index=-1) if node.kind in ("neuron", "feature") else node

    everywhere = circuit.at_all_positions().edges
    return Circuit(frozenset(replace(edge, source=bare(edge.source), target=bare(edge.target)) for edge in everywhere))
