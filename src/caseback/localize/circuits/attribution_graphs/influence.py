"""How much of a graph's targets passes through each node and edge, and what may be left out.

    A_ts = |weight_ts| / sum over s of |weight_ts|         I = w A + w A^2 + ...          (w: the targets' weights)

A graph has no cycles, so the series ends. Every path ends in a leaf, so the influence of all leaves sums to the weight
of the targets. An edge passes on A_ts (I_t + w_t).

    replacement  = I(leaves of the prompt) / (I(leaves of the prompt) + I(errors))
    completeness = sum over t of (I_t + w_t) (1 - share of errors in t's row) / sum of (I_t + w_t)

Biases are no part of the prompt: rows are normalized without them unless asked for. Completeness counts leaves too in
public code, each as complete; counted over nodes that have inputs it is lower, and both are given.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.localize.circuits.attribution_graphs.form import along_all_paths, expect_graph
from caseback.model.anatomy.coerce import in_float64
from caseback.model.arguments import checked


class Shares(NamedTuple):
    """A graph's normalized rows, and whom they are of.

    Attributes
    ----------
    rows
        (reader, writer), each summing to 1, or to 0 where nothing is read.
    targets
        (reader), the targets' weights.
    node
        (reader), each reader's place among the writers, -1 for logits.
    """

    rows: Tensor
    targets: Tensor
    node: Tensor

    def passing(self) -> Tensor:
        """(reader), what passes through each reader along all paths, the targets' own weight included."""
        units = self.node >= 0

        def step(passing: Tensor) -> Tensor:
            return torch.where(units, (passing @ self.rows)[self.node], 0.0)

        return along_all_paths(self.targets, step, len(units))

    def influence(self) -> Tensor:
        """(writer), the series."""
        return self.passing() @ self.rows


def shares_of(graph: xr.Dataset, biases: bool = False) -> Shares:
    """A graph's rows as shares.

    Raises
    ------
    ResultError
        For what is no attribution graph.
    """
    graph = expect_graph(graph)
    rows = torch.as_tensor(graph["weight"].values).abs()
    rows = rows if biases else rows * torch.as_tensor(graph["kind"].values != "bias")
    rows = rows / rows.sum(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    places = {name: i for i, name in enumerate(graph["writer"].values.tolist())}
    node = torch.tensor([places.get(name, -1) for name in graph["reader"].values.tolist()])
    return Shares(rows, torch.as_tensor(graph["target_weight"].values).to(rows), node)


@checked
def node_influence(graph: xr.Dataset, *, biases: bool = False) -> xr.DataArray:
    """How much of the targets' weight passes through each node, along all paths.

    Parameters
    ----------
    graph
        What ``attribution_graph`` gives.
    biases
        Whether biases are counted among what a node reads.

    Returns
    -------
    xarray.DataArray
        (writer). Over embeddings, errors and other leaves it sums to the targets' weight.

    Raises
    ------
    ResultError
        For another result.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.circuits import attribution_graph, node_influence
    >>> graph = attribution_graph(cb.load("meadow"), "Mary gave the ball to", targets=" John", max_nodes=50)
    >>> influence = node_influence(graph)
    >>> bool(abs(influence.sel(writer=graph.kind != "neuron").sum() - 1) < 1e-4)
    True
    """
    values = shares_of(graph, biases).influence()
    coords = {name: ("writer", graph[name].values) for name in ("writer", "kind", "layer", "pos_of", "index")}
    return xr.DataArray(values.numpy(), coords, ["writer"], name="influence", attrs=graph.attrs)


@checked
def edge_influence(graph: xr.Dataset, *, biases: bool = False) -> xr.DataArray:
    """How much of the targets' weight passes along each edge.

    Parameters
    ----------
    graph, biases
        As for ``node_influence``.

    Returns
    -------
    xarray.DataArray
        (reader, writer): over readers it sums to the influence of the writer.
    """
    shares = shares_of(graph, biases)
    values = shares.rows * shares.passing()[:, None]
    coords = {"reader": graph["reader"].values, "writer": graph["writer"].values}
    return xr.DataArray(values.numpy(), coords, ["reader", "writer"], name="influence", attrs=graph.attrs)


@checked
def prune_graph(graph: xr.Dataset, *, node: float = 0.8, edge: float = 0.98, biases: bool = False) -> xr.Dataset:
    """Leave out nodes and edges through which little passes.

    Nodes: the fewest that hold the share ``node`` of all influence, with all embeddings that are read and all targets;
    then edges: the fewest that hold the share ``edge`` of what passes between those; then, again and again, units that
    nobody reads or that read nobody, and other leaves that nobody reads.

    Parameters
    ----------
    graph
        What ``attribution_graph`` gives.
    node, edge
        Shares, 0 to 1; the defaults are circuit-tracer's.
    biases
        Whether biases are nodes like others; else they stay in ``weight`` and are no edge.

    Returns
    -------
    xarray.Dataset
        The same graph with fewer readers and writers, edges left out at weight 0, and ``influence`` (writer), that
        before pruning.

    Raises
    ------
    OutOfRange
        For shares outside 0 to 1, and where no unit is left.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.circuits import attribution_graph, prune_graph
    >>> graph = attribution_graph(cb.load("meadow"), "Mary gave the ball to", targets=" John", max_nodes=50)
    >>> small = prune_graph(graph, node=0.7)
    >>> small.sizes["writer"] < graph.sizes["writer"], bool((small.weight != 0).any("reader").all())
    (True, True)
    """
    if not 0 < node <= 1 or not 0 < edge <= 1:
        raise OutOfRange(f"node={node}, edge={edge}: expected shares above 0 and up to 1")
    graph = expect_graph(graph)
    shares = shares_of(graph, biases)
    influence = shares.influence()
    kind = graph["kind"].values
    is_bias, is_embed = (torch.as_tensor(kind == name) for name in ("bias", "embed"))
    writers = _fewest(influence, node) | (is_embed & (influence > 0))
    writers |= is_bias & torch.tensor(not biases)
    units = shares.node >= 0
    readers = torch.where(units, writers[shares.node], True)
    rows = shares.rows * (readers[:, None] & writers)
    rows = rows / rows.sum(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    within = Shares(rows, shares.targets, shares.node)
    passing = rows * within.passing()[:, None]
    edges = _fewest(passing.flatten(), edge).view_as(passing)
    # units that nobody reads, or that read nobody, go with their edges until none is left over
    while True:
        read = edges.any(0) | (is_bias & torch.tensor(not biases))
        reading = edges.any(1)
        alive = torch.where(units, read[shares.node] & reading, True)
        as_writer = torch.ones_like(read)
        as_writer[shares.node[units]] = alive[units]
        now = edges & alive[:, None] & as_writer
        if bool((now == edges).all()):
            break
        edges = now
    writers = edges.any(0)
    readers = torch.where(units, writers[shares.node] & edges.any(1), True)
    if not bool((readers & units).any()):
        raise OutOfRange(f"node={node}, edge={edge}: no unit is left. Give larger shares, or a graph of more nodes")
    biased = is_bias & torch.tensor(not biases)
    weight = np.where((edges | biased).numpy(), graph["weight"].values, 0)
    small = graph.assign(weight=(("reader", "writer"), weight), influence=("writer", influence.numpy()))
    small = small.isel(reader=readers.numpy(), writer=(writers | biased).numpy())
    return small.assign_attrs(node_share=node, edge_share=edge)


def _fewest(values: Tensor, share: float) -> Tensor:
    """The fewest entries that hold a share of the sum; none that is 0."""
    ranked = in_float64(values).sort(descending=True)
    before = ranked.values.cumsum(0) - ranked.values
    keep = (before < share * float(ranked.values.sum())) & (ranked.values > 0)
    return torch.zeros_like(keep).scatter_(0, ranked.indices, keep)


def cumulative(values: Tensor) -> Tensor:
    """The share of the sum that an entry and all larger ones hold: what viewers' sliders go by."""
    ranked = in_float64(values).sort(descending=True)
    total = ranked.values.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return torch.zeros_like(ranked.values).scatter_(0, ranked.indices, ranked.values.cumsum(0) / total)


@checked
def graph_scores(graph: xr.Dataset, *, biases: bool = False) -> dict[str, float]:
    """How much of a graph its units explain, and errors do not.

    Parameters
    ----------
    graph, biases
        As for ``node_influence``.

    Returns
    -------
    dict
        ``replacement``: of the targets' weight, how much begins at the prompt and not at errors. ``completeness``: of
        what passes through nodes that have inputs, how much of these inputs is no error; ``completeness_with_leaves``
        as public code has it, leaves counted as complete. Not to be compared between graphs of other ``max_nodes``.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.circuits import attribution_graph, graph_scores
    >>> model = cb.load("meadow")
    >>> graph = attribution_graph(model, "Mary gave the ball to", targets=" John", max_nodes=20_000)
    >>> round(graph_scores(graph)["replacement"], 6)
    1.0
    """
    shares = shares_of(graph, biases)
    passing = shares.passing()
    influence = passing @ shares.rows
    kind = graph["kind"].values
    error = torch.as_tensor(kind == "error")
    leaf = torch.as_tensor(np.isin(kind, ("embed", "pos_embed", "mlp")))
    from_prompt, from_errors = float(influence[leaf].sum()), float(influence[error].sum())
    complete = 1 - shares.rows[:, error].sum(1)
    readers, leaves = float(passing.sum()), float(influence[leaf | error].sum())
    units = float((passing * complete).sum())
    return {
        "replacement": _share(from_prompt, from_prompt + from_errors),
        "completeness": _share(units, readers),
        "completeness_with_leaves": _share(units + leaves, readers + leaves),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
