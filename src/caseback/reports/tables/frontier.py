"""What ever more edges recover of tasks, as a table: each method's curve, the fewest edges that do, their heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import xarray as xr

from caseback.behaviors.indirect_object import LOOKS, ioi_by_order, ioi_heads
from caseback.localize.circuits.frontier import Frontier, frontier
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.tasks import get
from caseback.tasks.prompts import Prompts

__all__ = ["SHARES", "WANTED", "frontier_table"]

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
WANTED = 0.9
_LOOKS_AT = 0.1


@checked
def frontier_table(
    model: Model, names: Sequence[str], count: int, *, seed: int = 0, ablation: str = "resample", progress: bool = False
) -> dict[str, Any]:
    """What each method's best edges recover on prompts that they were not found on.

    Parameters
    ----------
    model
        The model.
    names
        Tasks.
    count
        Prompts of each to find edges on, and as many to judge them on.
    seed
        Of the prompts.
    ablation
        What cut edges carry.
    progress
        Show progress bars.

    Returns
    -------
    dict
        ``model``; by task's name the ``tasks``' curves, one a method; the ``ioi_heads`` of the smallest circuit that
        recovers ``WANTED`` of that task, with effects and looks by order of mention; and ``tables``, for each task its
        ``measure``, ``whole`` and ``empty``, a row for each method, and the ``fewest`` edges that do with the method
        that finds them.

    Examples
    --------
    ::

        frontier_table(cb.load("meadow"), ["ioi", "agreement"], 32)["tables"][0]["fewest"]
    """
    curves: dict[str, list[Frontier]] = {}
    tables: list[dict[str, Any]] = []
    heads: list[dict[str, Any]] = []
    for name in names:
        drawn = get(name).prompts(model, 2 * count, seed=seed)
        judging = drawn[count:]
        curves[name] = frontier(model, drawn[:count], judging, SHARES, ablation=ablation, progress=progress)
        tables.append({"task": name, "measure": drawn.measure, **_table(curves[name])})
        if name == "ioi":
            heads = _heads(model, judging, curves[name])
    return {
        "model": model.name,
        # without their circuits, which plain data cannot hold
        "tasks": {
            name: [replace(curve, circuit=None).to_json() for curve in of_task] for name, of_task in curves.items()
        },
        "ioi_heads": heads,
        "tables": tables,
    }


def _table(curves: Sequence[Frontier]) -> dict[str, Any]:
    reached = [(curve.edges_for(WANTED), curve.method) for curve in curves]
    return {
        "whole": curves[0].whole,
        "empty": curves[0].empty,
        "edges": curves[0].total,
        "rows": [
            {
                "method": curve.method,
                "at": [curve.at(share) for share in SHARES],
                "needed": curve.edges_for(WANTED),
                # a circuit that was shrunk is one point, not a curve
                "point": (curve.edges[0], curve.recovered[0]) if len(curve.edges) == 1 else None,
            }
            for curve in curves
        ],
        "fewest": min(((edges, method) for edges, method in reached if edges is not None), default=None),
    }


def _heads(model: Model, prompts: Prompts, curves: Sequence[Frontier]) -> list[dict[str, Any]]:
    """The heads of the smallest faithful circuit: roles, effects and where they look, by order of mention."""
    circuits = [curve.circuit for curve in curves if curve.circuit is not None]
    if not circuits:
        return []
    smallest = min(circuits, key=len)
    inside = {str(edge.source) for edge in smallest.edges if edge.source.kind == "head"}
    apart = ioi_by_order(ioi_heads(model, prompts))
    orders = [str(order) for order in apart["order"].values]
    rows = []
    for i, name in enumerate(apart.component.values.tolist()):
        if name not in inside:
            continue
        totals = {order: float(apart.total.sel(order=order)[i]) for order in orders}
        looks = {order: _looks(apart.sel(order=order), i) for order in orders}
        rows.append({"head": name, "role": str(apart.role.values[i]), "total": totals, "looks": looks})
    return sorted(rows, key=lambda row: -sum(map(abs, row["total"].values())))


def _looks(means: xr.Dataset, head: int) -> str:
    at = ((query, key, float(means[look][head])) for look, (query, key) in LOOKS.items())
    return ", ".join(f"{query} at {key} {weight:.0%}" for query, key, weight in at if weight >= _LOOKS_AT)
