"""The circuit of a task in features, neurons or heads: found on some prompts, judged on others, as a document."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from caseback.decode.dictionaries import Dictionary, attached
from caseback.errors import CasebackError, did_you_mean
from caseback.localize.circuits.features import feature_circuit, feature_faithfulness, strongest_nodes
from caseback.model.anatomy.sites import as_site
from caseback.model.arguments import checked
from caseback.model.circuit import Circuit, Edge, Node
from caseback.model.running.model import Model
from caseback.reports.document import DocumentKind
from caseback.reports.graphs.of_circuit import circuit_graph_document
from caseback.reports.model_facts import model_facts
from caseback.tasks import get

__all__ = ["GRAINS", "NODE_CIRCUIT", "NodeCircuit", "node_circuit"]

GRAINS = {"features": (), "neurons": ("z", "mlp_post"), "heads": ("z", "mlp_out")}
"""The sites whose parts are nodes; those of features come with the dictionaries."""
METHODS = {"eap": "attribution", "eap-ig": "integrated_gradients", "exact": "exact"}
"""The command's names of methods as those of effects."""
SIZES = (4, 8, 16, 32, 64, 128, 256)
_RECOVERED = "of the metric on other prompts, all nodes outside replaced"
NODE_CIRCUIT = DocumentKind(
    "caseback.node_circuit",
    1,
    "a document of a circuit of nodes",
    "node_circuit",
    sections=("task", "about", "size", "nodes", "edges", "judgement", "provenance"),
)


class NodeCircuit(NamedTuple):
    """A circuit, its document, and that of its graph on a prompt of the task, which is what a page draws."""

    circuit: Circuit
    document: dict[str, Any]
    graph: dict[str, Any]


@checked
def node_circuit(
    model: Model,
    task: str,
    *,
    nodes: str = "features",
    dictionaries: Sequence[Dictionary] = (),
    method: str = "eap-ig",
    top: int = 60,
    node_threshold: float = 0.1,
    edge_threshold: float = 0.01,
    ablation: str = "mean",
    count: int = 40,
    seed: int = 0,
    before_judging: Callable[[Circuit], None] | None = None,
    progress: bool = False,
) -> NodeCircuit:
    """Find the circuit of a task in features, neurons or heads, and judge it on as many other prompts.

    Parameters
    ----------
    model, task
        The model, and the task's name.
    nodes
        ``"features"`` of the dictionaries with their errors, ``"neurons"`` and heads, or ``"heads"`` and MLPs.
    dictionaries
        One a layer, of one or several sites.
    method
        ``"eap-ig"``: integrated gradients of each site; ``"eap"``: the gradient alone; ``"exact"``: every node patched.
    top
        Nodes, the strongest of those that passed.
    node_threshold, edge_threshold, ablation
        As for ``feature_circuit`` and ``feature_faithfulness``.
    count
        Prompts to find it on, and as many to judge it on.
    seed
        Same seed, same result. It draws the prompts.
    before_judging
        Called with the circuit before it is judged, so that it is not lost with the judging.
    progress
        Show progress bars.

    Returns
    -------
    NodeCircuit
        The circuit, its document and its graph's, plain JSON data.

    Raises
    ------
    CasebackError
        For features without dictionaries, dictionaries for other nodes, and an unknown kind of nodes or method.

    Examples
    --------
    >>> import caseback as cb
    >>> result = node_circuit(cb.load("meadow"), "agreement", nodes="heads", top=8, count=4)
    >>> len(result.document["nodes"]), sorted(result.document["judgement"][0])
    (8, ['completeness', 'errors', 'faithfulness', 'nodes', 'way'])
    """
    for given, known, what in ((nodes, tuple(GRAINS), "nodes"), (method, tuple(METHODS), "method")):
        if given not in known:
            raise CasebackError(f"{what} {given!r}: expected one of {', '.join(known)}. {did_you_mean(given, known)}")
    if bool(dictionaries) != (nodes == "features"):
        raise CasebackError(
            "features need dictionaries: give them, one a layer"
            if nodes == "features"
            else f"dictionaries are given, and nodes are {nodes}: expected nodes='features'"
        )
    drawn = get(task).prompts(model, 2 * count, seed=seed)
    finding, judging = drawn[:count], drawn[count:]
    with _attached(model, dictionaries) as names:
        sites = names or GRAINS[nodes]
        circuit = feature_circuit(
            model,
            *(finding.clean, finding.corrupt, finding.metric),
            sites=sites,
            method=METHODS[method],
            node_threshold=node_threshold,
            edge_threshold=edge_threshold,
            top=top,
            progress=progress,
        )
        circuit = replace(circuit, about={**circuit.about, "task": task, "prompts": count, "seed": seed})
        if before_judging is not None:
            before_judging(circuit)
        n_scored = sum(isinstance(n, Node) and n.kind != "error" for n in circuit.scores)
        sizes = [size for size in SIZES if size < n_scored]
        circuits = [circuit, *(strongest_nodes(circuit, size) for size in sizes)]
        test = judging.clean, judging.corrupt, judging.metric
        judged = feature_faithfulness(model, *test, circuits, sites=sites, ablation=ablation, progress=progress)
    rows = [
        {
            "nodes": int(judged.nodes[i]),
            "errors": int(judged.errors[i]),
            "way": str(way),
            "faithfulness": float(judged["faithfulness"][w, i]),
            "completeness": float(judged["completeness"][w, i]),
        }
        for i in range(len(circuits))
        for w, way in enumerate(judged.measure.values if dictionaries else judged.measure.values[:1])
    ]
    document = NODE_CIRCUIT.document(
        model_facts(model, "name", "d_model"),
        task=task,
        about=dict(circuit.about) | {"ablation": ablation, "grain": nodes},
        size={"nodes": sum(n.kind != "logits" for n in circuit.nodes), "edges": len(circuit.edges)},
        nodes=[{"node": str(n), "score": circuit.scores[n]} for n in _ranked(circuit, Node)],
        edges=[{"edge": str(e), "score": circuit.scores[e]} for e in _ranked(circuit, Edge)],
        judgement=rows,
        provenance=dict(model.provenance()),
    )
    first = finding.metric.of_rows(finding.clean, slice(0, 1))
    graph = circuit_graph_document(
        model,
        finding.clean[:1],
        circuit,
        target=_first(first.target),
        foil=None if first.foil is None else _first(first.foil),
        dictionaries=dictionaries,
        scores=[
            {"name": "faithfulness", "value": row["faithfulness"], "words": f"{_RECOVERED}; {row['way']}"}
            for row in rows[: len(rows) // len(circuits)]
        ],
    )
    return NodeCircuit(circuit, document, graph)


def _first(tokens: Any) -> int:
    """A prompt's answer, or the first of several."""
    while not isinstance(tokens, int):
        tokens = tokens[0]
    return tokens


def _ranked(circuit: Circuit, kind: type) -> list[Any]:
    """Its nodes or edges with a score, the largest in size first."""
    scored = [part for part in circuit.scores if isinstance(part, kind)]
    return sorted(scored, key=lambda part: (-abs(circuit.scores[part]), str(part)))


@contextmanager
def _attached(model: Model, dictionaries: Sequence[Dictionary]) -> Iterator[list[str]]:
    """Dictionaries of each pair of sites under a name of their own; gives all the sites that come of them."""
    groups: dict[tuple[str, str], list[Dictionary]] = {}
    for one in dictionaries:
        ends = [as_site(end).name if end else "" for end in (one.facts.site, one.facts.target)]
        groups.setdefault((ends[0], ends[1]), []).append(one)
    with ExitStack() as stack:
        names: list[str] = []
        for number, several in enumerate(groups.values()):
            names += stack.enter_context(attached(model, several, name=f"features_of_circuit_{number}"))
        yield names
