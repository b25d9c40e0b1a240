"""The smallest circuit that keeps the answer: edges ranked by EAP-IG, run at growing sizes until enough is recovered.

recovered(n) = (m(circuit of n edges) - m') / (m - m'), cut edges carrying what they carry after the counterfactual.
Circuits of as many edges chosen at random, grown from the logits in the same way, stand beside it.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from caseback.localize.circuits.edge_attribution import edge_attribution
from caseback.localize.circuits.machinery.circuit_runs import CircuitRuns
from caseback.localize.circuits.selecting import edge_table, select_mask
from caseback.model.graph.graph import Graph
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.reports.story import thresholds
from caseback.reports.story.depths import Depth

STEPS, FEWEST, DRAWN = 5, 8, 120


def smallest_circuit(
    model: Model, clean: Tokens, corrupt: Tokens, metric: Metric, depth: Depth, seed: int = 0
) -> tuple[dict[str, Any], Bool[Tensor, "writer reader"]]:
    """The circuit as plain data, and its mask: the smallest that is faithful, else the most faithful of those tried."""
    graph = Graph.of(model.anatomy)
    total = int(graph.exists.sum())
    table = edge_table(graph, edge_attribution(model, clean, corrupt, metric, steps=STEPS))
    sizes = sorted({min(total, max(FEWEST, int(share * total))) for share in depth.sizes})
    runs = CircuitRuns(model, graph, clean, corrupt, metric)
    whole, empty = float(runs.whole[0]), float(runs.empty[0])
    tried: list[dict[str, Any]] = []
    masks = []
    for size in sizes:
        mask = select_mask(graph, table, size, how="greedy")
        masks.append(mask)
        value = (float(runs.metrics(mask[None])[0, 0]) - empty) / (whole - empty)
        tried.append({"edges": int(mask.sum()), "asked": size, "recovered": value})
        if abs(1 - value) <= 1 - thresholds.FAITHFUL:
            break
    best = min(range(len(tried)), key=lambda i: (abs(1 - tried[i]["recovered"]) > 1 - thresholds.FAITHFUL, i))
    faithful = abs(1 - tried[best]["recovered"]) <= 1 - thresholds.FAITHFUL
    if not faithful:
        best = min(range(len(tried)), key=lambda i: abs(1 - tried[i]["recovered"]))
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.rand(table.shape, generator=generator, dtype=torch.float64) for _ in range(depth.random)]
    chance = torch.stack([select_mask(graph, scores, tried[best]["asked"], how="greedy") for scores in drawn])
    random = (runs.metrics(chance)[:, 0] - empty) / (whole - empty)
    mask = masks[best]
    edges = [(float(table[graph.writers.index(e.source), _column(graph, e)]), e) for e in graph.circuit(mask).edges]
    largest = sorted(edges, key=lambda pair: -abs(pair[0]))[:DRAWN]
    return {
        "edges": tried[best]["edges"],
        "of": total,
        "recovered": tried[best]["recovered"],
        "faithful": faithful,
        "random": [float(value) for value in random],
        "tried": tried,
        "largest": [
            {"source": str(e.source), "target": str(e.target), "slot": e.slot, "score": -score} for score, e in largest
        ],
        "entry": "3.2.26",
    }, mask


def _column(graph: Graph, edge: Any) -> int:
    return graph.readers.index((edge.target, edge.slot))


def recovered_by(
    model: Model, clean: Tokens, corrupt: Tokens, metric: Metric, mask: Bool[Tensor, "writer reader"]
) -> list[float]:
    """What the circuit recovers on other prompts, each by itself."""
    runs = CircuitRuns(model, Graph.of(model.anatomy), clean, corrupt, metric)
    share = (runs.metrics(mask[None])[0] - runs.empty) / (runs.whole - runs.empty)
    return [float(value) for value in share]
