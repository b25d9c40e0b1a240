"""An attribution graph as a circuit, and back: what is drawn, judged and written to viewers' files.

Edges carry the graph's weights, units their activations, and what is said of the whole stands in ``about``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import ArgumentError, CasebackError, LoadError, ResultError
from caseback.jobs.json_text import expect_form, parse_json
from caseback.jobs.text_file import read_text
from caseback.localize.circuits.attribution_graphs.form import attrs_of, expect_graph
from caseback.localize.circuits.attribution_graphs.influence import cumulative, graph_scores, shares_of
from caseback.model.arguments import checked
from caseback.model.circuit import Circuit, Edge, Node
from caseback.model.graph.attribution_graph import (
    load_attribution_graph,
    save_attribution_graph,
    to_attribution_graph,
    viewers_groups,
)
from caseback.model.running.model import Model

_KEPT = ("prompt", "model", "foil", "foil_id", "gate", "first", "gap", "node_share", "edge_share")


@checked
def graph_circuit(graph: xr.Dataset) -> Circuit:
    """An attribution graph as a circuit.

    Parameters
    ----------
    graph
        What ``attribution_graph`` gives; edges of weight 0, as pruning leaves them, are none.

    Returns
    -------
    Circuit
        Edges with their weights as scores, units with their activations.

    Raises
    ------
    ResultError
        For what is no attribution graph.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.circuits import attribution_graph, graph_circuit, prune_graph
    >>> graph = attribution_graph(cb.load("meadow"), "Mary gave the ball to", targets=" John", max_nodes=50)
    >>> circuit = graph_circuit(prune_graph(graph))
    >>> "embed@1" in circuit
    True
    """
    graph = expect_graph(graph)
    writers, readers = (list(map(Node.parse, graph[dim].values.tolist())) for dim in ("writer", "reader"))
    weight = graph["weight"].values
    scores: dict[Node | Edge, float] = {}
    for t, s in zip(*np.nonzero(weight), strict=True):
        scores[Edge(writers[s], readers[t])] = float(weight[t, s])
    edges = frozenset(edge for edge in scores if isinstance(edge, Edge))
    units = zip(writers, graph["activation"].values.tolist(), strict=True)
    scores |= {node: value for node, value in units if np.isfinite(value)}

    def of_readers(name: str, kinds: tuple[str, ...]) -> dict[str, float]:
        values = zip(readers, graph[name].values.tolist(), strict=True)
        return {str(node): value for node, value in values if node.kind in kinds and np.isfinite(value)}

    about = {key: value for key, value in attrs_of(graph).items() if key in _KEPT}
    about |= {"tokens": graph["token"].values.tolist(), "targets": of_readers("target_weight", ("logits",))}
    about |= {"ids": graph["id"].values.tolist()} if "id" in graph.coords else {}
    about |= {"probabilities": of_readers("probability", ("logits",))} if "probability" in graph else {}
    about |= {"values": of_readers("value", ("feature", "neuron", "logits"))}
    return Circuit(edges, frozenset((*writers, *readers)), scores, about=about)


@checked
def circuit_graph(circuit: Circuit) -> xr.Dataset:
    """The attribution graph in a circuit, as ``graph_circuit`` or a viewer's file has it.

    Parameters
    ----------
    circuit
        Its nodes stand at positions, its edges have scores.

    Returns
    -------
    xarray.Dataset
        In the form of ``attribution_graph``, so that its influence, scores and pruning can be asked for. What a file of
        others does not hold (values, biases) is NaN or absent.

    Raises
    ------
    ResultError
        For a circuit without scores or targets.
    """
    targets = circuit.about.get("targets")
    if not isinstance(targets, Mapping) or not targets or not any(isinstance(part, Edge) for part in circuit.scores):
        raise ResultError("this circuit is no attribution graph: its edges have no scores, or it names no targets")
    order = sorted(
        circuit.nodes, key=lambda node: (*node.depth, node.kind == "bias", node.kind, int(node.pos or 0), node)
    )
    writers = [node for node in order if node.kind != "logits"]
    readers = [node for node in writers if node.kind in ("feature", "neuron")]
    readers += [node for node in order if node.kind == "logits"]
    row, column = ({node: i for i, node in enumerate(nodes)} for nodes in (readers, writers))
    weight = np.zeros((len(readers), len(writers)))
    for edge, score in circuit.scores.items():
        if isinstance(edge, Edge) and edge in circuit.edges and edge.target in row:
            weight[row[edge.target], column[edge.source]] = score
    values, probabilities = circuit.about.get("values", {}), circuit.about.get("probabilities", targets)

    def beside(dim: str, nodes: list[Node], prefix: str = "") -> dict[str, Any]:
        columns = {"kind": "kind", "layer": "layer", "index": "index"}
        own: dict[str, Any] = {prefix + key: (dim, [getattr(n, name) for n in nodes]) for key, name in columns.items()}
        return {**own, prefix + "pos_of": (dim, [int(node.pos) if node.pos else -1 for node in nodes])}

    tokens = [str(token) for token in circuit.about.get("tokens", ())]
    coords = {"writer": [str(node) for node in writers], "reader": [str(node) for node in readers]}
    coords |= {**beside("writer", writers), **beside("reader", readers, "reader_"), "pos": np.arange(len(tokens))}
    coords["token"] = ("pos", np.array(tokens, dtype=object))
    if len(ids := circuit.about.get("ids", ())) == len(tokens):
        coords["id"] = ("pos", list(ids))
    activation = [circuit.scores.get(node, float("nan")) for node in writers]
    return xr.Dataset(
        {
            "weight": (("reader", "writer"), weight),
            "activation": ("writer", activation),
            "value": ("reader", [float(values.get(str(node), "nan")) for node in readers]),
            "target_weight": ("reader", [float(targets.get(str(node), 0.0)) for node in readers]),
            "probability": ("reader", [float(probabilities.get(str(node), "nan")) for node in readers]),
        },
        coords,
        {key: circuit.about[key] for key in _KEPT if key in circuit.about},
    )


def _place(node: Node) -> tuple[Any, ...]:
    """Where a node stands: embeddings, each layer's units and its errors, biases; by position."""
    layer = 1_000_000 if node.kind == "bias" else node.layer
    return (layer, *node.depth, node.kind in ("error", "mlp"), int(node.pos or 0), node)


@checked
def save_graph(
    graph: xr.Dataset,
    path: str | Path,
    *,
    model: Model,
    slug: str = "",
    scan: str = "",
    supernodes: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write the file that viewers of attribution graphs open, circuit-tracer's or Neuronpedia's, and its index.

    Parameters
    ----------
    graph
        What ``attribution_graph`` gives, best pruned: viewers hold some thousands of nodes.
    path
        ``{slug}.json``.
    model
        The model that it was made with: labels are its tokens.
    slug, scan
        The graph's and the model's name in the viewer; the file's and the model's own unless given.
    supernodes
        Groups of nodes by name, which viewers show pinned and as one each; ``load_supernodes`` reads them back.

    Raises
    ------
    ResultError
        For what is no attribution graph.
    ArgumentError
        For supernodes of nodes that the graph lacks.
    """
    circuit, path = graph_circuit(graph), Path(path)
    roles = {Node.parse(name): group for group, names in (supernodes or {}).items() for name in names}
    if strange := sorted(roles.keys() - circuit.nodes):
        raise ArgumentError(f"{roles[strange[0]]!r} has {strange[0]}, which is no node of this graph")
    circuit = replace(circuit, roles=roles)
    shares = shares_of(graph)
    held = cumulative(shares.influence()).tolist()
    facts: dict[Node, dict[str, Any]] = {}
    ids = circuit.about.get("ids")
    for name, share in zip(graph["writer"].values.tolist(), held, strict=True):
        node = Node.parse(name)
        facts[node] = {"influence": share}
        if node.kind == "embed":
            facts[node] |= {"clerp": f'"{graph["token"].values[int(node.pos)]}"'}
            facts[node] |= {} if ids is None else {"id": ids[int(node.pos)]}
    for name, probability in circuit.about.get("probabilities", circuit.about["targets"]).items():
        node = Node.parse(name)
        text = model.token_text(node.index)
        facts[node] = {"token_prob": probability, "clerp": f'Output "{text}" (p={probability:.3f})'}
    shares_kept = {key: circuit.about[key] for key in ("node_share", "edge_share") if key in circuit.about}
    save_attribution_graph(
        to_attribution_graph(
            circuit,
            graph["token"].values.tolist(),
            layers=model.n_layers,
            slug=slug or path.stem,
            scan=scan or model.name,
            facts=facts,
            metadata={"pruning_settings": shares_kept, "scores": graph_scores(graph)},
        ),
        path,
    )


@checked
def load_supernodes(path: str | Path) -> dict[str, list[str]]:
    """Read the named groups of nodes in a viewer's file, or in what the page of a graph exports.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict
        By name the nodes of each group; empty where the file has none.

    Raises
    ------
    CasebackError
        For a file that cannot be read, or of another format.
    """
    try:
        data = parse_json(read_text(Path(path)))
    except (LoadError, ValueError) as error:
        raise CasebackError(f"cannot read supernodes from {str(path)!r}: {error}") from error
    if isinstance(data, Mapping) and "supernodes" in data:
        with expect_form("this is no graph with supernodes"):
            names = data["nodes"]["name"]
            return {str(group["name"]): [str(names[i]) for i in group["nodes"]] for group in data["supernodes"]}
    try:
        return viewers_groups(data)
    except CasebackError as error:
        raise CasebackError(f"cannot read supernodes from {str(path)!r}: {error}") from error


@checked
def load_graph(path: str | Path) -> xr.Dataset:
    """Read an attribution graph from a viewer's file, ours or another's.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    xarray.Dataset
        As of ``circuit_graph``.

    Raises
    ------
    CasebackError
        For a file that cannot be read, of another format or another version of its schema.
    ResultError
        For a file of a circuit that is no attribution graph.
    """
    return circuit_graph(load_attribution_graph(path))
