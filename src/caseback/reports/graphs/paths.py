"""What is read off any graph of a prompt: how each node bears on the targets, and the strongest ways to them.

    A_st = w_st / sum over sources of |w_.t|,    v = sum_k (A)^k g

with g the targets' weights: v is positive where what a node brings supports the targets, negative where it speaks
against them. A path is as strong as the product of A along it. Edges that follow each other may not form a circle.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from caseback.errors import CasebackError, OutOfRange
from caseback.reports.document import checked, drawn_from

__all__ = ["Path", "effects", "from_the_top", "strongest_paths"]


class Path(NamedTuple):
    """Nodes from a source to a target, and the product of the shares of the edges between them."""

    nodes: tuple[int, ...]
    strength: float


@checked
@drawn_from("a graph", "graph_document")
def from_the_top(n_nodes: int, sources: Sequence[int], targets: Sequence[int]) -> list[int]:
    """The nodes in an order in which each stands behind all that it feeds.

    Raises
    ------
    CasebackError
        If edges form a circle, or end nowhere.

    Examples
    --------
    >>> from_the_top(3, [0, 1], [1, 2])
    [2, 1, 0]
    """
    if n_nodes < 0 or any(not 0 <= end < n_nodes for end in (*sources, *targets)):
        raise CasebackError(f"edges between nodes that there are not: expected ends from 0 to {n_nodes - 1}")
    readers = np.bincount(np.asarray(sources, dtype=np.int64), minlength=n_nodes)
    feeding: list[list[int]] = [[] for _ in range(n_nodes)]
    for source, target in zip(sources, targets, strict=True):
        feeding[target].append(source)
    ready = [node for node in range(n_nodes) if readers[node] == 0]
    for node in ready:  # grows while it is walked
        for source in feeding[node]:
            readers[source] -= 1
            if readers[source] == 0:
                ready.append(source)
    if len(ready) < n_nodes:
        stuck = int(np.flatnonzero(readers > 0)[0])
        raise CasebackError(f"the edges from node {stuck} lead back to it: expected edges that form no circle")
    return ready


def _shares(edges: Mapping[str, Any], n_nodes: int) -> np.ndarray:
    """Each edge's weight among all that its target gets."""
    weight = np.asarray(edges["weight"], dtype=np.float64)
    total = np.bincount(np.asarray(edges["target"], dtype=np.int64), np.abs(weight), minlength=n_nodes)
    into = total[np.asarray(edges["target"], dtype=np.int64)]
    return weight / np.where(into > 0, into, 1)


def _explained(document: Mapping[str, Any]) -> dict[int, float]:
    """The nodes that are targets, with their weights; where none is named, those that feed nothing."""
    nodes = document["nodes"]
    weights = {target["id"]: float(target["weight"]) for target in document["targets"]}
    named = {
        i: weights[index]
        for i, (kind, index) in enumerate(zip(nodes["kind"], nodes["index"], strict=True))
        if kind == "logits" and index in weights
    }
    if named:
        return named
    feeding = set(document["edges"]["source"])
    fed = set(document["edges"]["target"])
    return {i: 1.0 for i in range(len(nodes["name"])) if i in fed and i not in feeding}


@checked
@drawn_from("a graph", "graph_document")
def effects(document: Mapping[str, Any]) -> list[float]:
    """How each node bears on the targets: above 0 where it supports them, below 0 where it speaks against them.

    Parameters
    ----------
    document
        What ``graph_document`` returns, or the same read from JSON.

    Returns
    -------
    list of float
        One number per node, v above; a target has its weight.

    Raises
    ------
    CasebackError
        For what is no graph.
    """
    edges, n_nodes = document["edges"], len(document["nodes"]["name"])
    value = np.zeros(n_nodes)
    for node, weight in _explained(document).items():
        value[node] = weight
    into: list[list[int]] = [[] for _ in range(n_nodes)]
    for i, target in enumerate(edges["target"]):
        into[target].append(i)
    shares = _shares(edges, n_nodes)
    for node in from_the_top(n_nodes, edges["source"], edges["target"]):
        for i in into[node]:
            value[edges["source"][i]] += shares[i] * value[node]
    return value.tolist()


@checked
@drawn_from("a graph", "graph_document")
def strongest_paths(document: Mapping[str, Any], most: int = 5) -> list[Path]:
    """The strongest paths from nodes that nothing feeds to the targets, the strongest first.

    Parameters
    ----------
    document
        As for ``effects``.
    most
        How many paths.

    Raises
    ------
    OutOfRange
        For no paths.
    CasebackError
        For what is no graph.
    """
    if most < 1:
        raise OutOfRange(f"most={most}: expected at least 1 path")
    nodes, edges = document["nodes"], document["edges"]
    n_nodes = len(nodes["name"])
    # the best ways down from each node to a target: (strength, next node, which of its ways)
    ways: list[list[tuple[float, int, int]]] = [[] for _ in range(n_nodes)]
    for node, weight in _explained(document).items():
        ways[node].append((weight, -1, -1))
    into: list[list[int]] = [[] for _ in range(n_nodes)]
    for i, target in enumerate(edges["target"]):
        into[target].append(i)
    shares = _shares(edges, n_nodes)
    for node in from_the_top(n_nodes, edges["source"], edges["target"]):
        ways[node] = heapq.nlargest(most, ways[node], key=lambda way: abs(way[0]))
        for i in into[node]:
            ways[edges["source"][i]] += [(shares[i] * way[0], node, at) for at, way in enumerate(ways[node])]
    begun = [(*way, node) for node in range(n_nodes) if not into[node] for way in ways[node] if way[1] >= 0]
    paths = []
    for strength, following, at, node in heapq.nlargest(most, begun, key=lambda way: abs(way[0])):
        path = [node]
        while following >= 0:
            path.append(following)
            _, following, at = ways[following][at]
        paths.append(Path(tuple(path), float(strength)))
    return [path for path in paths if path.strength]
