"""Circuits as masks of a graph's edges, at all positions or place by place.

A place is a named position of the prompts (``end``, ``S1+1``, ``3``), and after all of these comes everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.model.circuit import Circuit, Edge, Node
from caseback.model.graph.graph import Graph
from caseback.model.prompts.places import placed
from caseback.model.running.tokens import Tokens

Masks = Bool[Tensor, "variant writer reader"] | Bool[Tensor, "variant place writer reader"]


def masks_of(
    graph: Graph, circuits: Circuit | Sequence[Circuit] | Tensor, places: Sequence[str] = ()
) -> Bool[Tensor, "variant place writer reader"]:
    """Circuits as masks of the graph's edges, one or several.

    Parameters
    ----------
    graph
        Of the model.
    circuits
        A ``Circuit``, several, or masks (variant, [place,] writer, reader), of which one may be given alone.
    places
        The names of places, in the order of the masks'; the last mask is of everywhere else.

    Raises
    ------
    CasebackError
        For a circuit of another model, a disconnected one, or masks of another shape.
    """
    if isinstance(circuits, Circuit):
        circuits = [circuits]
    if not isinstance(circuits, Tensor):
        circuit_masks = [_mask(graph, circuit, places) for circuit in circuits]
        if not circuit_masks:
            raise CasebackError("no circuit to run: the list is empty")
        return torch.stack(circuit_masks)
    masks = circuits.bool()
    if masks.ndim in (2, 3):
        masks = masks[:, None] if masks.ndim == 3 else masks[None, None]
    if masks.ndim != 4 or masks.shape[-2:] != graph.exists.shape or masks.shape[1] not in (1, len(places) + 1):
        shape = tuple(graph.exists.shape)
        raise CasebackError(f"masks of shape {tuple(circuits.shape)}: expected (variant, writer, reader), {shape} each")
    return masks & graph.exists


def places_of(circuits: Circuit | Sequence[Circuit] | Tensor) -> list[str]:
    """The names of the positions in circuits, sorted; none for masks."""
    if isinstance(circuits, Tensor):
        return []
    several = [circuits] if isinstance(circuits, Circuit) else circuits
    return sorted({node.pos for circuit in several for node in circuit.nodes} - {""})


def placed_all(names: Sequence[str], known: Mapping[str, Any] | None, tokens: Tokens) -> list[list[list[int]]]:
    """For each name the positions that it has in each prompt.

    Raises
    ------
    CasebackError
        For a name that is neither a number nor among ``known``, and for two names of one position.
    """
    known = known or {}
    places: list[list[list[int]]] = []
    for name in names:
        given = known.get(name, int(name) if name.lstrip("-").isdecimal() else None)
        if given is None:
            raise CasebackError(
                f"no position is called {name!r}. {did_you_mean(name, known)} Pass positions=, such as a task's "
                "prompts.spans"
            )
        if isinstance(given, Tensor) and given.ndim == 2:
            places.append([list(range(first, last + 1)) for first, last in given.tolist()])
        else:
            places.append(placed(given, tokens, anywhere=False))
    for b in range(len(tokens)):
        seen: dict[int, str] = {}
        for name, rows in zip(names, places, strict=True):
            for at in rows[b]:
                if at in seen:
                    raise CasebackError(
                        f"position {at} of prompt {b} is both {seen[at]!r} and {name!r}: name each position once"
                    )
                seen[at] = name
    return places


def _mask(graph: Graph, circuit: Circuit, places: Sequence[str]) -> Bool[Tensor, "place writer reader"]:
    """One circuit, place by place; refuses edges of which none leads from an input to the logits."""
    if not circuit.edges:
        return _of_nodes(graph, circuit.nodes, places)
    at: dict[str, set[Edge]] = {name: set() for name in (*places, "")}
    for edge in circuit.edges:
        named = {edge.source.pos, edge.target.pos} - {""}
        if len(named) > 1:
            raise CasebackError(
                f"edge {edge} ends at another position than it begins: writes are read where they are written, and "
                "attention carries them on inside a head; put the position where the head reads"
            )
        bare = Edge(_bare(edge.source), _bare(edge.target), edge.slot)
        for name in named or at:
            at[name].add(bare)
    mask = torch.stack([graph.mask(Circuit(frozenset(edges))) for edges in at.values()])
    if not bool(graph.connected(mask.any(0)).any()):
        raise CasebackError(
            f"none of the {len(circuit)} edges of this circuit lies on a path from an input to the logits: it is "
            "disconnected and computes nothing from the prompt. Give a mask to run it all the same"
        )
    return mask


def _of_nodes(graph: Graph, nodes: frozenset[Node], places: Sequence[str]) -> Bool[Tensor, "place writer reader"]:
    """All that some nodes, and with them the inputs, write; of no nodes nothing, not even the inputs."""
    mask = torch.zeros(len(places) + 1, *graph.exists.shape, dtype=torch.bool)
    if not nodes:
        return mask
    by_writer = {graph.writers.index(node): [""] for node in graph.writers[: len(graph.inputs)]}
    for node in nodes:
        bare = _bare(node)
        if bare.kind == "logits":
            continue
        if bare not in graph.writers:
            raise CasebackError(f"this model has no writer {node}: the circuit is of another model, or names no node")
        by_writer.setdefault(graph.writers.index(bare), []).append(node.pos)
    names = [*places, ""]
    for w, wheres in by_writer.items():
        for where in wheres:
            rows = slice(None) if where == "" else names.index(where)
            mask[rows, w] = True
    return mask & graph.exists


def _bare(node: Node) -> Node:
    return Node(node.kind, node.layer, node.index)
