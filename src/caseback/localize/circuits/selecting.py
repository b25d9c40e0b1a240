"""From scores to a circuit: the best edges, or nodes, and what of them hangs together.

    top        the n parts of highest |score| (or score)
    greedy     from the logits back: the best edge into what is reached already, n times, so that every edge leads there

Edges that no path from an input to the logits passes carry nothing of the prompt; pruning drops them.
"""

from __future__ import annotations

import heapq
from typing import Any

import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.model.arguments import checked
from caseback.model.circuit import Circuit, Edge, Node
from caseback.model.graph.graph import Graph
from caseback.model.running.model import Model

WAYS = ("top", "greedy")
_OR_GROW = ", or take how='greedy', which grows from the logits"


@checked
def select(
    model: Model | Graph,
    scores: xr.DataArray | Circuit,
    count: int | float,
    *,
    how: str = "top",
    absolute: bool = True,
    prune: bool = True,
) -> Circuit:
    """The circuit of the highest scores.

    Parameters
    ----------
    model
        The model, or its graph.
    scores
        As a discovery method gives them: (writer, reader) for edges, (writer,) for nodes, each with or without
        ``batch``, over which the mean is taken. Or a ``Circuit`` whose ``scores`` hold edges.
    count
        How many edges, or nodes: a whole number, or a share between 0 and 1 (rounded down, at least 1).
    how
        ``"top"`` or ``"greedy"``; nodes are always the top ones.
    absolute
        Rank by size, or by the signed score.
    prune
        Drop the edges that lie on no path from an input to the logits, so that fewer may be left than asked for.

    Returns
    -------
    Circuit
        With the score of every edge (or node) of the graph beside it. Chosen nodes bring all edges between them, the
        inputs and the logits.

    Raises
    ------
    OutOfRange
        For no edges, or more than there are.
    CasebackError
        For scores of another model, and where nothing of what was chosen connects an input with the logits.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.circuits import edge_attribution
    >>> model = cb.load("meadow")
    >>> pair, metric = ("Mary gave the ball to", "John gave the ball to"), cb.logit_diff(" Mary", " John")
    >>> scores = edge_attribution(model, *pair, metric)
    >>> circuit = select(model, scores, 100)
    >>> 0 < len(circuit) <= 100, len(select(model, scores, 100, how="greedy", prune=False))
    (True, 100)
    """
    if how not in WAYS:
        raise CasebackError(f"how {how!r} is unknown. {did_you_mean(how, WAYS)}")
    graph = model if isinstance(model, Graph) else Graph.of(model.anatomy, inputs_of(scores))
    about = {"chosen": how, "absolute": absolute, "asked_for": count, **_provenance(scores)}
    if isinstance(scores, xr.DataArray) and "reader" not in scores.dims:
        return _of_nodes(graph, scores, count, absolute, prune, about)
    table = edge_table(graph, scores)
    mask = select_mask(graph, table, count, how=how, absolute=absolute, prune=prune)
    if not bool(mask.any()):
        raise CasebackError(
            f"none of the {count_of(graph, count)} edges chosen lies on a path from an input to the logits: the "
            f"circuit is disconnected. Ask for more edges{_OR_GROW if how == 'top' else ''}"
        )
    return Circuit(graph.circuit(mask).edges, scores=scores_of(graph, table), about=about)


def select_mask(
    graph: Graph,
    table: Float[Tensor, "writer reader"],
    count: int | float,
    *,
    how: str = "top",
    absolute: bool = True,
    prune: bool = True,
) -> Bool[Tensor, "writer reader"]:
    """The mask of the highest scores, which may be empty once pruned; arguments as for ``select``."""
    n = count_of(graph, count)
    ranked = torch.where(graph.exists, table.abs() if absolute else table, -torch.inf)
    mask = _greedy(graph, ranked, n) if how == "greedy" else _top(ranked, n)
    return graph.connected(mask) if prune else mask


def edge_table(graph: Graph, scores: xr.DataArray | Circuit | Tensor) -> Float[Tensor, "writer reader"]:
    """Scores of a graph's edges as one table, averaged over prompts; NaN where there is no edge.

    Raises
    ------
    CasebackError
        For scores of another model's edges, or edges without a score.
    """
    if isinstance(scores, Circuit):
        return _table_of_circuit(graph, scores)
    if isinstance(scores, xr.DataArray):
        writers, readers = [str(node) for node in graph.writers], [name_of_reader(r) for r in graph.readers]
        same = {"writer", "reader"} <= set(scores.dims)
        if not same or (list(scores.writer.values), list(scores.reader.values)) != (writers, readers):
            raise CasebackError(
                f"scores with dims {scores.dims} are not of this model's edges: expected (writer, reader) with "
                f"{len(writers)} writers and {len(readers)} readers, as edge_attribution gives them"
            )
        rest = [dim for dim in scores.dims if dim not in ("writer", "reader")]
        scores = torch.tensor(scores.mean(rest).transpose("writer", "reader").values)
    if scores.shape != graph.exists.shape:
        raise CasebackError(f"scores of shape {tuple(scores.shape)}: expected {tuple(graph.exists.shape)}")
    table = torch.where(graph.exists, scores.double().cpu(), torch.nan)
    bad = table[graph.exists].isnan()
    if bool(bad.any()):
        raise CasebackError(f"{int(bad.sum())} of {len(bad)} edges have no score (NaN): they cannot be ranked")
    return table


def scores_of(graph: Graph, table: Float[Tensor, "writer reader"]) -> dict[Node | Edge, float]:
    """A table of scores by edge."""
    pairs = graph.exists.T.nonzero()
    values = table.T[pairs[:, 0], pairs[:, 1]].tolist()
    return dict(zip(graph.edges, values, strict=True))


def inputs_of(scores: xr.DataArray | Circuit) -> tuple[str, ...]:
    """Which writers the scores know as inputs: the embeddings as one, or those of positions apart."""
    if isinstance(scores, Circuit):
        nodes = {end for part in scores.scores for end in ([part.source] if isinstance(part, Edge) else [part])}
        apart = Node("pos_embed") in nodes
    else:
        apart = "writer" in scores.coords and "pos_embed" in scores.writer.values
    return ("embed", "pos_embed") if apart else ("embed",)


def name_of_reader(reader: tuple[Node, str]) -> str:
    """A reader as results name it: ``L1H4.k``, ``MLP 2``, ``logits``."""
    node, slot = reader
    return f"{node}.{slot}" if slot else str(node)


def count_of(graph: Graph, count: int | float, of: int | None = None) -> int:
    """How many parts a number or a share asks for.

    Raises
    ------
    OutOfRange
        For none, or more than there are.
    """
    most = int(graph.exists.sum()) if of is None else of
    n = max(1, int(count * most)) if isinstance(count, float) and 0 < count <= 1 else count
    if isinstance(n, bool) or n != int(n) or not 1 <= n <= most:
        raise OutOfRange(f"{count} asked for: expected a whole number from 1 to {most}, or a share between 0 and 1")
    return int(n)


def _top(ranked: Tensor, n: int) -> Bool[Tensor, "writer reader"]:
    # a stable sort, reader by reader: of equals the earlier edge is taken
    best = ranked.T.flatten().argsort(descending=True, stable=True)[:n]
    mask = torch.zeros(ranked.numel(), dtype=torch.bool)
    mask[best] = True
    return mask.view(ranked.T.shape).T.contiguous()


def _greedy(graph: Graph, ranked: Tensor, n: int) -> Bool[Tensor, "writer reader"]:
    """The best edge into what is reached, again and again, from the logits back."""
    into: dict[Node, list[int]] = {}
    for r, (node, _) in enumerate(graph.readers):
        for fed in [node] if node.kind == "logits" else graph.fed_by(node):
            into.setdefault(fed, []).append(r)
    mask = torch.zeros_like(graph.exists)
    heap: list[tuple[float, int, int]] = []
    open_readers: set[int] = set()

    def reach(node: Node) -> None:
        for r in into.get(node, ()):
            if r not in open_readers:
                open_readers.add(r)
                for w in graph.exists[:, r].nonzero()[:, 0].tolist():
                    heapq.heappush(heap, (-values[w][r], r, w))

    values = ranked.tolist()
    reach(Node("logits"))
    left = n
    while left and heap:
        _, r, w = heapq.heappop(heap)
        mask[w, r] = True
        left -= 1
        reach(graph.writers[w])
    return mask


def _of_nodes(
    graph: Graph, scores: xr.DataArray, count: int | float, absolute: bool, prune: bool, about: dict[str, Any]
) -> Circuit:
    names = [str(node) for node in graph.writers]
    if "writer" not in scores.dims or not set(scores.writer.values.tolist()) <= set(names):
        raise CasebackError(f"scores with dims {scores.dims} are not of this model's nodes: expected (writer,)")
    nodes = [graph.writers[names.index(name)] for name in scores.writer.values.tolist()]
    values = torch.tensor(scores.mean([dim for dim in scores.dims if dim != "writer"]).values).double()
    if bool(values.isnan().any()):
        raise CasebackError("some nodes have no score (NaN): they cannot be ranked")
    order = (values.abs() if absolute else values).argsort(descending=True, stable=True)
    chosen = [nodes[i] for i in order[: count_of(graph, count, len(nodes))].tolist()]
    mask = graph.between(chosen)
    mask = graph.connected(mask) if prune else mask
    if not bool(mask.any()):
        raise CasebackError("none of the nodes chosen lies on a path from an input to the logits: ask for more")
    circuit = graph.circuit(mask)
    return Circuit(circuit.edges, scores=dict(zip(nodes, values.tolist(), strict=True)), about={**about, "of": "nodes"})


def _table_of_circuit(graph: Graph, circuit: Circuit) -> Float[Tensor, "writer reader"]:
    scored = Circuit(frozenset(part for part in circuit.scores if isinstance(part, Edge)))
    lacking = graph.exists & ~graph.mask(scored)
    if bool(lacking.any()):
        raise CasebackError(f"{int(lacking.sum())} edges of this model have no score in the circuit")
    values = torch.tensor([circuit.scores[edge] for edge in graph.edges], dtype=torch.float64)
    table = torch.full(graph.exists.shape, torch.nan, dtype=torch.float64)
    pairs = graph.exists.T.nonzero()
    table[pairs[:, 1], pairs[:, 0]] = values
    return table


def _provenance(scores: xr.DataArray | Circuit) -> dict[str, Any]:
    """How the scores were obtained, for a circuit's ``about``."""
    if isinstance(scores, Circuit):
        return dict(scores.about)
    known = ("technique", "entry", "citation", "model", "metric", "steps", "along", "direction", "patch")
    about = {key: scores.attrs[key] for key in known if key in scores.attrs}
    method = about.pop("technique", None)
    return about if method is None else {"method": method.rpartition(".")[2], **about}
