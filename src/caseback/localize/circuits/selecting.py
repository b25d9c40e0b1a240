"""From scores to a circuit: the best edges, or nodes, and what of them hangs together.

    top        the n parts of highest |score| (or score)
    greedy     from the logits back: the best edge into what is reached already, n times, so that every edge leads there

Edges that no path from an input to the logits passes carry nothing of the prompt; pruning drops them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.localize.circuits.machinery.placed_graph import Sees, connected_at, greedy_at, sees_of
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
        ``batch``, over which the mean is taken, and with ``pos`` for edges or nodes at places. Or a ``Circuit`` whose
        ``scores`` hold edges at all positions.
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
        inputs and the logits; nodes at places are a circuit of nodes, which keeps all that they write. An edge at a
        place, ``L0H1@S2 -> L1H4.k@S2``, counts as one.

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
    if isinstance(scores, xr.DataArray) and "pos" in scores.dims:
        table, places, sees = placed_table(graph, scores)
        n = count_of(graph, count, len(places) * len(graph.edges))
        mask = select_masks(graph, table, n, sees, how=how, absolute=absolute, prune=prune)
    else:
        table, places = edge_table(graph, scores)[None], [""]
        n = count_of(graph, count)
        mask = select_mask(graph, table[0], n, how=how, absolute=absolute, prune=prune)[None]
    if not bool(mask.any()):
        raise CasebackError(
            f"none of the {n} edges chosen lies on a path from an input to the logits: the "
            f"circuit is disconnected. Ask for more edges{_OR_GROW if how == 'top' else ''}"
        )
    edges: set[Edge] = set()
    scored: dict[Node | Edge, float] = {}
    for place, own, part in zip(places, mask, table, strict=True):
        edges |= {at_place(edge, place) for edge in graph.circuit(own).edges}
        placed = {at_place(edge, place): score for edge, score in scores_of(graph, part).items()}
        scored = {**scored, **placed}
    return Circuit(frozenset(edges), scores=scored, about=about)


def at_place(edge: Edge, place: str) -> Edge:
    """An edge of the graph at a place, where both its ends are; everywhere for no name."""
    if not place:
        return edge
    return Edge(replace(edge.source, pos=place), replace(edge.target, pos=place), edge.slot)


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
    everywhere = torch.ones(1, 1, dtype=torch.bool)
    n = count_of(graph, count)
    return select_masks(graph, table[None], n, everywhere, how=how, absolute=absolute, prune=prune)[0]


def select_masks(
    graph: Graph,
    table: Float[Tensor, "place writer reader"],
    n: int,
    sees: Sees,
    *,
    how: str = "top",
    absolute: bool = True,
    prune: bool = True,
) -> Bool[Tensor, "place writer reader"]:
    """The mask of the n highest scores at places, of which ``sees`` says which can be read from which."""
    ranked = torch.where(graph.exists, table.abs() if absolute else table, -torch.inf)
    mask = greedy_at(graph, ranked, n, sees) if how == "greedy" else _top(ranked, n)
    return connected_at(graph, mask, sees) if prune else mask


def placed_table(graph: Graph, scores: xr.DataArray) -> tuple[Float[Tensor, "place writer reader"], list[str], Sees]:
    """Scores of edges at places as tables, averaged over prompts, with the places' names and who sees whom.

    Raises
    ------
    CasebackError
        For scores of another model's edges, or places of which is not told where they are.
    """
    if not {"begins", "ends"} <= set(scores.coords):
        raise CasebackError("scores by pos lack where their places are (begins, ends): take edge_attribution's own")
    names = [str(name) for name in scores.pos.values]
    tables = torch.stack([edge_table(graph, scores.isel(pos=i)) for i in range(len(names))])
    ends = (torch.as_tensor(scores[side].transpose("pos", "batch").values) for side in ("begins", "ends"))
    return tables, names, sees_of(*ends)


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
    table = torch.where(graph.exists, scores.cpu().double(), torch.nan)
    bad = table[graph.exists].isnan()
    if bool(bad.any()):
        raise CasebackError(f"{int(bad.sum())} of {len(bad)} edges have no score (NaN): they cannot be ranked")
    return table


def scores_of(graph: Graph, table: Float[Tensor, "writer reader"]) -> dict[Edge, float]:
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


def _top(ranked: Tensor, n: int) -> Bool[Tensor, "place writer reader"]:
    # a stable sort, reader by reader: of equals the earlier edge is taken
    by_reader = ranked.transpose(1, 2)
    best = by_reader.flatten().argsort(descending=True, stable=True)[:n]
    mask = torch.zeros(ranked.numel(), dtype=torch.bool)
    mask[best] = True
    return mask.view(by_reader.shape).transpose(1, 2).contiguous()


def _of_nodes(
    graph: Graph, scores: xr.DataArray, count: int | float, absolute: bool, prune: bool, about: dict[str, Any]
) -> Circuit:
    names = [str(node) for node in graph.writers]
    if "writer" not in scores.dims or not set(scores.writer.values.tolist()) <= set(names):
        raise CasebackError(f"scores with dims {scores.dims} are not of this model's nodes: expected (writer,)")
    nodes = [graph.writers[names.index(name)] for name in scores.writer.values.tolist()]
    placed = "pos" in scores.dims
    if placed:
        nodes = [replace(node, pos=str(name)) for node in nodes for name in scores.pos.values]
    dims = ("writer", "pos") if placed else ("writer",)
    mean = scores.mean([dim for dim in scores.dims if dim not in dims]).transpose(*dims)
    values = torch.tensor(mean.values).double().flatten()
    if bool(values.isnan().any()):
        raise CasebackError("some nodes have no score (NaN): they cannot be ranked")
    order = (values.abs() if absolute else values).argsort(descending=True, stable=True)
    chosen = [nodes[i] for i in order[: count_of(graph, count, len(nodes))].tolist()]
    scored: dict[Node | Edge, float] = dict(zip(nodes, values.tolist(), strict=True))
    if placed:
        return Circuit(nodes=frozenset(chosen), scores=scored, about={**about, "of": "nodes"})
    mask = graph.between(chosen)
    mask = graph.connected(mask) if prune else mask
    if not bool(mask.any()):
        raise CasebackError("none of the nodes chosen lies on a path from an input to the logits: ask for more")
    circuit = graph.circuit(mask)
    return Circuit(circuit.edges, scores=scored, about={**about, "of": "nodes"})


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
