"""Circuits as attribution-graph JSON, the format that circuit viewers open.

The file of circuit-tracer's and Neuronpedia's viewers: ``metadata`` with the prompt, ``nodes`` with a layer and a token
each, weighted ``links``, and ``qParams``, a saved state of the view. Its nodes are features at one position. A head is
written as an attention feature ("lorsa"), an MLP or neuron as a transcoder feature; a node at all positions stands at
the last token. What the format has no place for (slots, names, roles, biases) is written under keys of our own, which
viewers ignore, so that what is read back is the same circuit.

The ids of errors that others write, ``0_{layer}_{position}``, are also those of features of layer 0. Ours stand among
the features of their own layer, behind all that there can be.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from caseback.errors import CasebackError, LoadError
from caseback.jobs.json_text import expect_form, parse_json
from caseback.jobs.text_file import read_text
from caseback.jobs.whole_file import whole_file
from caseback.model.circuit import Circuit, Edge, Node
from caseback.version import __version__

SCHEMA_VERSION = 1
_TRANSCODER, _ERROR = "cross layer transcoder", "mlp reconstruction error"
_FIRST = {"head": 0, "kv_head": 10_000, "mlp": 20_000, "neuron": 30_000, "feature": 0, "error": 2**24}
_TYPES = {"head": "lorsa", "kv_head": "lorsa", "embed": "embedding", "pos_embed": "embedding", "logits": "logit"}
_TYPES |= {"error": _ERROR}


def to_attribution_graph(
    circuit: Circuit,
    tokens: Sequence[str],
    *,
    layers: int,
    slug: str = "circuit",
    scan: str = "",
    answer: str = "",
    prob: float = 0.0,
    positions: Mapping[str, int] | None = None,
    facts: Mapping[Node, Mapping[str, Any]] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A circuit on a prompt as plain data in the viewers' format.

    Parameters
    ----------
    circuit
        The circuit.
    tokens
        The prompt's tokens as text.
    layers
        How many layers the model has; the logits stand above them.
    slug, scan
        The graph's and the model's name; the model's is by default the one that the circuit names.
    answer, prob
        The token at the logits and its probability, for the node's label.
    positions
        Where the positions that nodes name are, by name; numbers and ``"end"`` need no entry.
    facts
        More of nodes, or other values of what is written by itself: ``activation``, ``influence``, ``clerp`` (the
        label), ``token_prob``, and of an embedding its token's ``id``.
    metadata
        More of the graph, such as ``pruning_settings``.

    Raises
    ------
    CasebackError
        For an empty prompt, or a position that is not in it.

    Examples
    --------
    >>> graph = to_attribution_graph(Circuit.of("embed -> L0H1.v", "L0H1 -> logits"), ["Mary", " gave"], layers=2)
    >>> [node["node_id"] for node in graph["nodes"]], graph["links"][0]["source"]
    (['E_0_1', '0_1_1', '3_0_1'], 'E_0_1')
    """
    if not tokens:
        raise CasebackError("the prompt has no tokens: a graph's nodes need some to stand at")
    drawn = [node for node in sorted(circuit.nodes) if node.kind != "bias"]
    at = {node: _column(node, len(tokens), positions or {}) for node in drawn}
    facts = facts or {}
    weights = {edge: float(circuit.scores.get(edge, 0.0)) for edge in circuit.edges}
    influence = _influence(circuit, weights)
    nodes, names = [], {}
    for node in sorted(drawn, key=lambda node: (*node.depth, node.kind, node.index, at[node], node.pos)):
        own = dict(facts.get(node, {}))
        entry = _node(node, at[node], layers, answer, own.get("token_prob", prob), own.pop("id", None))
        # Several named places may be one token: the later ones get a number of their own.
        same = sum(other == entry["node_id"] for other in names.values())
        if same:
            entry["node_id"], entry["jsNodeId"] = f"{entry['node_id']}_{node.pos}", f"{entry['jsNodeId']}-{same}"
        names[node] = entry["node_id"]
        role = circuit.roles.get(node)
        entry["clerp"] = f"{entry['clerp']} · {role}" if role else entry["clerp"]
        score = circuit.scores.get(node)
        entry |= {"influence": influence.get(node), "activation": None if score is None else float(score), **own}
        entry |= {"run_idx": 0, "reverse_ctx_idx": 0}
        nodes.append({**entry, "caseback": str(node)})
    links = [
        {"source": names[edge.source], "target": names[edge.target], "weight": weights[edge], "slot": edge.slot}
        for edge in sorted(circuit.edges, key=lambda e: (*e.target.depth, str(e.target), e.slot, str(e.source)))
        if edge.source in names
    ]
    groups: dict[str, list[str]] = {}
    for node, role in circuit.roles.items():
        groups.setdefault(role, []).append(names[node])
    return {
        "metadata": {
            "slug": slug,
            "scan": scan or str(circuit.about.get("model", "")),
            "transcoder_list": [],
            "prompt_tokens": list(tokens),
            "prompt": "".join(tokens),
            "node_threshold": 1.0,
            "schema_version": SCHEMA_VERSION,
            "info": {"generator": {"name": "caseback", "version": __version__}},
            **(metadata or {}),
        },
        "qParams": {
            "pinnedIds": [one for ids in groups.values() for one in ids],
            "supernodes": [[role, *ids] for role, ids in groups.items()],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": nodes,
        "links": links,
        "caseback": circuit.to_json(),
    }


def from_attribution_graph(data: Mapping[str, Any]) -> Circuit:
    """A circuit from data in the viewers' format.

    What ``to_attribution_graph`` made is read back as it was. In files of others, a feature becomes a node such as
    ``L3F1042@5``, a reconstruction error one such as ``L3E@5`` and a logit one such as ``logits[262]@8``. Nodes'
    activations are their scores, and ``about`` has the logits' probabilities.

    Raises
    ------
    CasebackError
        For data of another format.

    Examples
    --------
    >>> circuit = Circuit.of("embed -> L0H1.v", "L0H1 -> logits", roles={"L0H1": "mover"})
    >>> from_attribution_graph(to_attribution_graph(circuit, ["a", "b"], layers=1)) == circuit
    True
    """
    missing = [key for key in ("metadata", "nodes", "links") if not isinstance(data, Mapping) or key not in data]
    if missing:
        raise CasebackError(f"this is not an attribution graph: it lacks {', '.join(missing)}")
    if "caseback" in data:
        return Circuit.from_json(data["caseback"])
    with expect_form("this is not an attribution graph"):
        return _circuit_of(data)


def viewers_groups(data: Mapping[str, Any]) -> dict[str, list[str]]:
    """The nodes of each supernode of a file, as a viewer left them: it may have been grouped since it was written.

    Raises
    ------
    CasebackError
        For data of another format, or a supernode of which the file has no node; viewers leave pruned ones in.
    """
    if not isinstance(data, Mapping) or "nodes" not in data:
        raise CasebackError("this is not an attribution graph: it lacks nodes")
    with expect_form("this is not an attribution graph"):
        names = {str(given["node_id"]): str(given.get("caseback") or _read(given)) for given in data["nodes"]}
        groups = {str(name): list(map(str, ids)) for name, *ids in (data.get("qParams") or {}).get("supernodes") or ()}
    there = {name: [names[one] for one in ids if one in names] for name, ids in groups.items()}
    if unknown := [name for name, members in there.items() if not members]:
        raise CasebackError(f"the supernode {unknown[0]!r} has none of this graph's nodes")
    return there


def _circuit_of(data: Mapping[str, Any]) -> Circuit:
    """The circuit in a file of others."""
    nodes: dict[str, Node] = {}
    for given in data["nodes"]:
        nodes[str(given["node_id"])] = _read(given)
    scores: dict[Node | Edge, float] = {}
    probabilities: dict[str, float] = {}
    for given in data["nodes"]:
        node = nodes[str(given["node_id"])]
        if given.get("activation") is not None and node.kind == "feature":
            scores[node] = float(given["activation"])
        if node.kind == "logits":
            probabilities[str(node)] = float(given.get("token_prob") or 0.0)
    for link in data["links"]:
        ends = str(link["source"]), str(link["target"])
        unknown = [end for end in ends if end not in nodes]
        if unknown:
            raise CasebackError(f"a link of this graph names {unknown[0]!r}, which is not one of its nodes")
        edge = Edge(nodes[ends[0]], nodes[ends[1]])
        weight = float(link["weight"])
        scores[edge] = weight if abs(weight) > abs(scores.get(edge, 0.0)) else scores.get(edge, weight)
    known, version = data["metadata"], data["metadata"].get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise CasebackError(f"this graph is of schema version {version!r}: version {SCHEMA_VERSION} can be read")
    groups = (data.get("qParams") or {}).get("supernodes") or ()
    roles = {nodes[str(one)]: str(name) for name, *ids in groups for one in ids if str(one) in nodes}
    about: dict[str, Any] = {"prompt": str(known.get("prompt", "")), "model": str(known.get("scan", ""))}
    about |= {"tokens": [str(token) for token in known.get("prompt_tokens") or ()], "targets": probabilities}
    edges = frozenset(part for part in scores if isinstance(part, Edge))
    return Circuit(edges, frozenset(nodes.values()), scores, roles, about)


def save_attribution_graph(graph: Mapping[str, Any], path: str | Path) -> None:
    """Write the file for a viewer, and beside it the index of graphs that some viewers want.

    Parameters
    ----------
    graph
        What ``to_attribution_graph`` made.
    path
        The file, ``{slug}.json``. The index ``graph-metadata.json`` in the same folder keeps what it lists already.
    """
    path = Path(path)
    index = path.parent / "graph-metadata.json"
    try:
        listed = parse_json(read_text(index))["graphs"] if os.path.exists(index) else []
        others = [one for one in listed if one.get("slug") != graph["metadata"]["slug"]]
    except (LoadError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CasebackError(f"{str(index)!r} is not a list of graphs: remove it, or choose another folder") from error
    listed = [*others, graph["metadata"]]
    for file, content in ((path, graph), (index, {"graphs": listed})):
        with whole_file(file) as draft:
            draft.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def load_attribution_graph(path: str | Path) -> Circuit:
    """Read a file of the viewers' format, ours or another's.

    Raises
    ------
    CasebackError
        For a file that cannot be read, or of another format.
    """
    try:
        data = parse_json(read_text(path))
    except (LoadError, ValueError) as error:
        raise CasebackError(f"cannot read a graph from {str(path)!r}: {error}") from error
    return from_attribution_graph(data)


def _node(node: Node, column: int, layers: int, answer: str, prob: float, token: int | None) -> dict[str, Any]:
    """One node's entry, without what its label gets besides."""
    name = str(replace(node, pos=""))
    kind = _TYPES.get(node.kind, _TRANSCODER)
    if kind == "embedding":
        number = (0 if node.kind == "embed" else 1) if token is None else token
        entry = {"node_id": f"E_{number}_{column}", "feature": None, "layer": "E"}
    elif kind == "logit":
        number = max(node.index, 0)
        entry = {"node_id": f"{layers + 1}_{number}_{column}", "feature": number, "layer": str(layers + 1)}
        name = f'Output "{answer}" (p={prob:.3f})' if answer else name
    else:
        number = _FIRST[node.kind] + max(node.index, 0)
        # Cantor's pairing, one number for a layer and a feature in it, as circuit-tracer writes them.
        paired = (node.layer + number) * (node.layer + number + 1) // 2 + number
        entry = {"node_id": f"{node.layer}_{number}_{column}", "feature": paired, "layer": str(node.layer)}
    entry |= {"ctx_idx": column, "feature_type": kind, "jsNodeId": f"{entry['node_id'].rpartition('_')[0]}-{column}"}
    entry |= {"is_target_logit": kind == "logit", "token_prob": prob if kind == "logit" else 0.0}
    return {**entry, "clerp": name}


def _column(node: Node, length: int, positions: Mapping[str, int]) -> int:
    if not node.pos or node.pos == "end":
        return length - 1
    known = positions.get(node.pos)
    if known is None:
        try:
            known = int(node.pos)
        except ValueError:
            raise CasebackError(
                f"where is {node.pos!r} of {node}? Give positions={{{node.pos!r}: number of the token}}"
            ) from None
    known = known + length if known < 0 else known
    if not 0 <= known < length:
        raise CasebackError(f"{node} stands at token {known} of a prompt of {length}")
    return known


def _influence(circuit: Circuit, weights: Mapping[Edge, float]) -> dict[Node, float]:
    """The share of all weight that a node and those above it in weight have: what viewers prune by."""
    held: dict[Node, float] = {}
    for edge, weight in weights.items():
        held[edge.source] = held.get(edge.source, 0.0) + abs(weight)
    total = sum(held.values())
    if not total:
        return {}
    shares, so_far = {}, 0.0
    for node in sorted(held, key=lambda node: (-held[node], str(node))):
        so_far += held[node] / total
        shares[node] = min(1.0, so_far)
    return shares


def _read(given: Mapping[str, Any]) -> Node:
    kind, pos = str(given.get("feature_type", "")), str(given.get("ctx_idx", ""))
    parts = str(given["node_id"]).split("_")
    try:
        if kind == "embedding":
            return Node("embed", pos=pos)
        if kind == "logit":
            return Node("logits", index=int(parts[1]), pos=pos)
        if kind == _ERROR:
            return Node("error", int(given["layer"]), pos=pos)
        if kind == _TRANSCODER:
            return Node("feature", int(given["layer"]), int(parts[1]), pos)
    except (ValueError, IndexError, TypeError) as error:
        raise CasebackError(f"node {given['node_id']!r} of this graph cannot be read: {error}") from error
    raise CasebackError(
        f"node {given['node_id']!r} is a {kind!r}: expected embedding, logit, {_TRANSCODER!r} or {_ERROR!r}"
    )
