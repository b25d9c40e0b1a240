"""A circuit of features, neurons or heads as a graph that can be drawn on a prompt of its task.

A node's influence is the size of its effect. An edge's score is already an effect on the metric; a graph's weights are
on what reads them, whose own effect may be against the target, so they take that sign off again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from caseback.decode.dictionaries import Dictionary
from caseback.decode.vocabulary.weights.named_matrices import table_of, weights_of
from caseback.errors import CasebackError, OutOfRange
from caseback.model.anatomy.sites import as_site
from caseback.model.arguments import checked
from caseback.model.circuit import Circuit, Node
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike
from caseback.reports.graph import graph_document
from caseback.reports.graphs.paths import from_the_top

__all__ = ["circuit_graph_document"]

_KINDS = {"kv_head": "head"}


@checked
def circuit_graph_document(
    model: Model,
    prompt: PromptsLike,
    circuit: Circuit,
    *,
    target: str | int,
    foil: str | int | None = None,
    dictionaries: Sequence[Dictionary] = (),
    scores: Sequence[Mapping[str, Any]] = (),
    k: int = 6,
) -> dict[str, Any]:
    """Draw a circuit of nodes with effects.

    Parameters
    ----------
    model
        The model.
    prompt
        One prompt of the task, for the reader; nodes at all positions stand beside it.
    circuit
        What ``feature_circuit`` gives: its nodes and edges have scores.
    target, foil
        The prompt's answer and what it is contrasted with.
    dictionaries
        Those whose features are nodes, for the words that features write.
    scores
        What is said of the whole: ``name``, ``value`` and ``words`` of each.
    k
        How many words of a unit, and predictions.

    Returns
    -------
    dict
        The document, as ``graph_document`` makes it.

    Raises
    ------
    CasebackError
        For a circuit without edges to the logits, or with positions that have names rather than numbers.

    Examples
    --------
    >>> import caseback as cb
    >>> circuit = cb.Circuit.of("embed -> L0H1.v", "L0H1 -> logits", direction="noising")
    >>> circuit.scores.update({edge: -1.0 for edge in circuit.edges})
    >>> document = circuit_graph_document(cb.load("meadow"), "Mary gave", circuit, target=" the")
    >>> sorted(document["nodes"]["name"])
    ['L0H1', 'embed', 'logits']
    """
    if k < 1:
        raise OutOfRange(f"k={k}: expected 1 or more words")
    own = sorted(circuit.nodes, key=lambda node: (*node.depth, node))
    if not any(node.kind == "logits" for node in own):
        raise CasebackError("this circuit has no edge to the logits: nothing of it leads to a prediction")
    number = {node: i for i, node in enumerate(own)}
    sign = -1 if circuit.about.get("direction", "noising") == "noising" else 1  # noising what supports lowers
    edges = sorted(circuit.edges, key=str)
    score = [sign * float(circuit.scores.get(edge, 0.0)) for edge in edges]
    ends = [(number[edge.source], number[edge.target]) for edge in edges]
    target_id = model.token_id(target)
    targets = [{"text": model.token_text(target_id), "id": target_id, "probability": 0.0, "weight": 1.0}]
    if foil is not None:
        foil_id = model.token_id(foil)
        targets.append({"text": model.token_text(foil_id), "id": foil_id, "probability": 0.0, "weight": -1.0})
    influence = [abs(float(circuit.scores.get(node, 0.0))) for node in own]
    top = max([*influence, 1e-30])
    words = _words(model, dictionaries, k)
    nodes = {
        "name": [str(node) for node in own],
        "kind": [_KINDS.get(node.kind, node.kind) for node in own],
        "layer": [model.n_layers if node.kind == "logits" else node.layer for node in own],
        "pos": [_position(node) for node in own],
        "index": [target_id if node.kind == "logits" else None if node.index < 0 else node.index for node in own],
        "influence": [top if node.kind == "logits" else value for node, value in zip(own, influence, strict=True)],
        "text": [targets[0]["text"] if node.kind == "logits" else circuit.roles.get(node, "") for node in own],
        "words": [words(node) for node in own],
    }
    weights = _weights(len(own), ends, score, {number[node] for node in own if node.kind == "logits"})
    return graph_document(
        model,
        prompt,
        about={**_plain(circuit.about), "method": "feature circuit", "signed": True},
        targets=targets,
        nodes=nodes,
        edges={"source": [s for s, _ in ends], "target": [t for _, t in ends], "weight": weights},
        thresholds={"node": 1.0, "edge": 1.0},
        scores=[dict(one) for one in scores],
        warnings=["Effects and edges are first order: what the whole recovers is measured, what one edge does is not."],
        k=k,
    )


def _position(node: Node) -> int | None:
    if not node.pos:
        return None
    try:
        return int(node.pos)
    except ValueError:
        raise CasebackError(f"{node} stands at {node.pos!r}: expected positions as numbers") from None


def _weights(count: int, ends: list[tuple[int, int]], score: list[float], logits: set[int]) -> list[float]:
    """Edges' effects with the sign of their reader's taken off, from the logits down."""
    effect = [1.0 if i in logits else 0.0 for i in range(count)]
    into: list[list[int]] = [[] for _ in range(count)]
    for e, (_, t) in enumerate(ends):
        into[t].append(e)
    weights = [0.0] * len(ends)
    for t in from_the_top(count, [s for s, _ in ends], [t for _, t in ends]):
        total = sum(abs(score[e]) for e in into[t])
        for e in into[t]:
            weights[e] = score[e] if effect[t] >= 0 else -score[e]
            effect[ends[e][0]] += score[e] / total * abs(effect[t]) if total else 0.0
    return weights


def _words(model: Model, dictionaries: Sequence[Dictionary], k: int) -> Callable[[Node], dict[str, Any] | None]:
    """What features and neurons write, in words."""
    table = table_of(weights_of(model, True), "out")
    places = {}
    for one in dictionaries:
        site = as_site(one.facts.target or one.facts.site)
        places[(site.layer, site.name)] = one

    def of(node: Node) -> dict[str, Any] | None:
        row: Tensor | None = None
        if node.kind == "feature" and (one := places.get((node.layer, node.site or "mlp_out"))) is not None:
            row = one.W_dec[node.index] if one.d_out == model.d_model else None
        elif node.kind == "neuron":
            row = model.weights.W_out[node.layer][node.index]
        if row is None:
            return None
        with torch.no_grad():
            logits = row.detach().to(table) @ table
        best = [logits.topk(min(k, len(logits)), largest=largest).indices.tolist() for largest in (True, False)]
        up, down = ([model.token_text(i) for i in ids] for ids in best)
        return {"up": up, "down": down}

    return of


def _plain(about: Mapping[str, Any]) -> dict[str, Any]:
    known = {"effects by" if key == "method" else key: value for key, value in about.items()}
    return {key: value for key, value in known.items() if isinstance(value, str | int | float | bool)}
