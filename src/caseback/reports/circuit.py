"""A circuit as a document that can be drawn: its graph, what its nodes look at and write, and how it was judged.

Plain JSON data. For an example prompt it holds each head's attention pattern and, per node and position, the tokens
that the node's write promotes and suppresses: the write through the final norm, frozen there, and the unembedding,
minus the mean over the vocabulary. The best of the edges that were scored but left out are kept too, so that a reader
can move the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.localize.circuits.judging import Judgement
from caseback.localize.circuits.machinery.sizes import circuit_size, inputs_of
from caseback.localize.circuits.machinery.writes import sites_of_writes, writes
from caseback.model.algebra.promoted import promoted
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.arguments import checked
from caseback.model.circuit import Circuit, Edge, Node
from caseback.model.graph.graph import Graph
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts

__all__ = ["CIRCUIT", "circuit_document"]

CIRCUIT = DocumentKind(
    "caseback.circuit",
    1,
    "a circuit document",
    "circuit_document",
    sections=(
        *("task", "about", "tokens", "counterfactual", "predictions", "inputs", "sign", "roles", "edges", "size"),
        *("total", "scored", "readings", "patterns", "curves", "judgement", "other", "provenance"),
    ),
)


@checked
def circuit_document(
    model: Model,
    example: PromptsLike,
    circuit: Circuit,
    *,
    counterfactual: PromptsLike | None = None,
    task: str = "",
    curves: Mapping[str, xr.Dataset] | None = None,
    judgement: Judgement | None = None,
    other: Circuit | None = None,
    other_name: str = "the other circuit",
    most: int = 600,
    k: int = 6,
) -> dict[str, Any]:
    """Put together what the views of a circuit show.

    Parameters
    ----------
    model
        The model.
    example
        One prompt, on which heads' patterns and nodes' writes are read.
    circuit
        The circuit; edges that have a score but are not in it are shown below the threshold.
    counterfactual
        The example's counterfactual, for the reader.
    task
        What the circuit is for.
    curves
        Faithfulness over sizes by method, as ``faithfulness_curve`` gives it.
    judgement
        How the circuit was judged, as ``judge`` gives it.
    other, other_name
        A circuit to compare it with, and what it is called.
    most
        How many edges are kept at most: members first, then by score.
    k
        How many tokens each write promotes and suppresses.

    Returns
    -------
    dict
        The document, plain JSON data.

    Raises
    ------
    CasebackError
        For a circuit of another model, or several examples.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> circuit = cb.Circuit.of("embed -> L0H1.v", "L0H1 -> logits")
    >>> document = circuit_document(model, "Mary gave the ball to", circuit)
    >>> sorted(edge["source"] for edge in document["edges"]), len(document["tokens"])
    (['L0H1', 'embed'], 6)
    """
    if k < 1 or most < 1:
        raise OutOfRange(f"{k} tokens for each write and {most} edges: expected 1 or more of each")
    tokens = model.tokens(example)
    if len(tokens) != 1:
        raise CasebackError(f"{len(tokens)} examples given: expected one prompt to read patterns and writes on")
    inputs = inputs_of(replace(circuit, nodes=circuit.nodes | {end for end, _ in _ends(circuit)}))
    graph = Graph.of(model.anatomy, inputs)
    size = circuit_size(model, circuit, inputs)
    run = model.run(tokens, read=[*sites_of_writes(model, graph), "pattern", ("resid_post", model.n_layers - 1)])
    edges = _edges(circuit, other, most)
    compared = None
    if other is not None:
        compared = {
            "name": other_name,
            "edges": len(other.edges),
            "iou_edges": circuit.iou(other),
            "iou_nodes": circuit.iou(other, "nodes"),
            "shared": len(circuit.edges & other.edges),
            "only_here": len(circuit.edges - other.edges),
            "only_there": len(other.edges - circuit.edges),
        }
    own = tokens.mask[0]
    prob = run.logits[0, own.to(run.logits.device)][-1].float().softmax(-1)
    best = prob.topk(k)
    layers = [{"heads": layer.n_heads, "kv_heads": layer.n_kv_heads} for layer in graph.layers]
    return CIRCUIT.document(
        {**model_facts(model, "name", "d_model"), "layers": layers},
        task=task,
        about={str(key): _plain(value) for key, value in circuit.about.items()},
        tokens=[{"text": text} for text in tokens.text[0]],
        counterfactual=None if counterfactual is None else _other(model, tokens, counterfactual),
        predictions=[
            {"text": model.token_text(i), "prob": p}
            for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ],
        inputs=list(inputs),
        sign=_sign(circuit),
        roles={str(node): role for node, role in sorted(circuit.roles.items())},
        edges=edges,
        size=size,
        total=len(graph.edges),
        scored=sum(isinstance(part, Edge) for part in circuit.scores),
        readings=_readings(model, graph, run, k),
        patterns=_patterns(model, run, edges),
        curves=[_curve(name, curve) for name, curve in (curves or {}).items()],
        judgement=None if judgement is None else _judged(judgement),
        other=compared,
        provenance={**dict(model.provenance()), "method": str(circuit.about.get("method", "by hand"))},
    )


def _judged(judgement: Judgement) -> dict[str, Any]:
    """The judgement as plain data, the group that is farthest from the whole model's behavior first."""
    data = judgement.to_json()
    ranked = sorted(data["groups"].items(), key=lambda group: -abs(group[1] - 1))
    return {**data, "groups": dict(ranked)}


def _sign(circuit: Circuit) -> str:
    """What the sign of a score means, if the circuit records how it was scored."""
    direction = circuit.about.get("direction")
    says = {"noising": "negative: cutting the edge lowers the metric", "denoising": "positive: the edge restores it"}
    return says.get(str(direction), "")


def _ends(circuit: Circuit) -> list[tuple[Node, Edge]]:
    scored = [part for part in circuit.scores if isinstance(part, Edge)]
    return [(end, edge) for edge in scored for end in (edge.source, edge.target)]


def _edges(circuit: Circuit, other: Circuit | None, most: int) -> list[dict[str, Any]]:
    """The edges to show, by the size of their scores; members of either circuit are the last to be left out."""
    listed = {part: circuit.scores.get(part) for part in circuit.scores if isinstance(part, Edge)}
    members = circuit.edges | (other.edges if other else frozenset())
    listed |= {edge: circuit.scores.get(edge) for edge in members if edge not in listed}
    of_scores = [abs(score) for score in listed.values() if score is not None and math.isfinite(score)]
    floor = min(of_scores, default=1.0)

    def height(edge: Edge) -> float:
        score = listed[edge]
        return abs(score) if score is not None and math.isfinite(score) else floor

    ranked = sorted(listed, key=lambda edge: (edge not in members, -height(edge), str(edge)))[:most]
    rows = []
    for edge in sorted(ranked, key=lambda edge: (-height(edge), str(edge))):
        score = listed[edge]
        rows.append(
            {
                "source": str(edge.source),
                "target": str(edge.target),
                "slot": edge.slot,
                "score": score if score is not None and math.isfinite(score) else None,
                "in": edge in circuit.edges,
                "other": None if other is None else edge in other.edges,
            }
        )
    return rows


def _readings(model: Model, graph: Graph, run: Run, k: int) -> dict[str, Any]:
    """What every write promotes and suppresses at every position, as indices into one list of token texts."""
    own = run.tokens.mask[0]
    final = at_least_float32(run["resid_post", model.n_layers - 1].detach())[0][own]
    texts: dict[int, int] = {}
    nodes: dict[str, list[Any]] = {}

    def read(parts: Float[Tensor, "pos d_model"]) -> list[Any]:
        logits = promoted(model, parts, final)
        ends = logits.topk(k), (-logits).topk(k)
        readings = []
        for at in range(len(parts)):
            row = []
            for sign, extreme in zip((1, -1), ends, strict=True):
                ids, values = extreme.indices[at].tolist(), extreme.values[at].tolist()
                row.append([[texts.setdefault(i, len(texts)), sign * v] for i, v in zip(ids, values, strict=True)])
            readings.append(row)
        return readings

    at = 0
    for block in writes(model, run, graph):
        for part in block:
            nodes[str(graph.writers[at])] = read(part[0][own.to(part.device)])
            at += 1
    nodes["logits"] = read(final)
    return {"texts": [model.token_text(i) for i in texts], "nodes": nodes}


def _patterns(model: Model, run: Run, edges: list[dict[str, Any]]) -> dict[str, Any]:
    """The attention patterns of the heads that the edges touch, as nested lists, as far as the budget allows."""
    own = run.tokens.mask[0]
    named = dict.fromkeys(Node.parse(edge[end]) for edge in edges for end in ("source", "target"))
    heads = dict.fromkeys(replace(node, pos="") for node in named if node.kind == "head")
    room = limit("page_pattern_entries") // max(1, int(own.sum()) ** 2)
    patterns = {}
    for node in list(heads)[:room]:
        pattern = run["pattern", node.layer][0, node.index].float().cpu()
        patterns[str(node)] = pattern[own.cpu()][:, own.cpu()].tolist()
    return patterns


def _curve(name: str, curve: xr.Dataset) -> dict[str, Any]:
    columns = ("recovered", "recovered_low", "recovered_high", "fraction", "edges", "kept")
    series = {key: curve[key].values.tolist() for key in columns}
    areas = {key: float(curve.attrs[key]) for key in ("cpr", "cmd", "cpr_log", "cmd_log")}
    return {"method": name, "ablation": str(curve.attrs["ablation"]), **series, **areas}


def _other(model: Model, tokens: Tokens, counterfactual: PromptsLike) -> list[dict[str, str]]:
    theirs = model.tokens(counterfactual)
    if len(theirs) != 1 or len(theirs.text[0]) != len(tokens.text[0]):
        raise CasebackError("the example's counterfactual must be one prompt of as many tokens")
    return [{"text": text} for text in theirs.text[0]]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool) or value is None else str(value)
