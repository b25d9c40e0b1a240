"""The circuit of a task at named spans of its prompts, beside the circuit at all positions of as many edges.

    n edges at places   against   n / P edges at each of the P places

Both are cut from one table of scores, the second from its sums over places, and judged on other prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from caseback.errors import CasebackError, OutOfRange
from caseback.localize.circuits import faithfulness_curve, select, span_schema
from caseback.localize.circuits.methods import placing_method
from caseback.model.arguments import checked
from caseback.model.circuit import Circuit, Edge
from caseback.model.running.model import Model
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.tasks import get

__all__ = ["SPAN_CIRCUIT", "SpanCircuit", "span_circuit"]

SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Of all edges at places, from which curves are drawn."""


def _lengths(document: Mapping[str, Any]) -> None:
    n, map_ = len(document["places"]), document["map"]
    if any(len(row["effects"]) != n for row in map_):
        raise CasebackError(f"a row of the map is not over {n} places: pass what span_circuit returned")


SPAN_CIRCUIT = DocumentKind(
    "caseback.span_circuit",
    1,
    "a document of a circuit at spans",
    "span_circuit",
    sections=("task", "about", "places", "size", "edges", "map", "curve", "cancelled", "provenance"),
    lengths=_lengths,
)


class SpanCircuit(NamedTuple):
    """A circuit of edges at places, and its document."""

    circuit: Circuit
    document: dict[str, Any]


@checked
def span_circuit(
    model: Model,
    task: str,
    *,
    method: str = "eap-ig",
    edges: int | float = 0.02,
    how: str = "top",
    ablation: str = "resample",
    count: int = 40,
    seed: int = 0,
    k: int = 20,
    before_judging: Callable[[Circuit], None] | None = None,
    progress: bool = False,
) -> SpanCircuit:
    """Find the circuit of a task at the spans that the task names, and judge it on as many other prompts.

    Parameters
    ----------
    model, task
        The model, and the task's name.
    method
        One of the methods that score edges at places: ``"eap"``, ``"eap-ig"`` …
    edges
        How many edges at places, or a share of them.
    how, ablation
        As for ``select`` and ``faithfulness_curve``.
    count
        Prompts to find it on, and as many to judge it on.
    seed
        Same seed, same result. It draws the prompts.
    k
        How many edges are listed, and components mapped.
    before_judging
        Called with the circuit before it is judged, so that it is not lost with the judging.
    progress
        Show progress bars.

    Returns
    -------
    SpanCircuit
        The circuit and its document, plain JSON data: ``map`` has what each component's write at each place does for
        the metric, ``curve`` the shares recovered with places and without, ``cancelled`` the share of all scores that
        their sums over places lose.

    Raises
    ------
    CasebackError
        For a method that does not score edges at places, and as ``select``.

    Examples
    --------
    >>> import caseback as cb
    >>> result = span_circuit(cb.load("meadow"), "agreement", method="eap", count=4)
    >>> [place["name"] for place in result.document["places"]]
    ['beginning', 'subject', 'after subject', 'attractor']
    """
    if k < 1 or count < 1:
        raise OutOfRange(f"k={k}, count={count}: expected 1 or more of each")
    chosen = placing_method(method)
    drawn = get(task).prompts(model, 2 * count, seed=seed)
    schema = span_schema(model, drawn.clean, drawn.spans)
    finding, judging = drawn[:count], drawn[count:]
    here, there = ({name: rows[part] for name, rows in schema.items()} for part in (slice(count), slice(count, None)))
    given = {**chosen.settings, "positions": here, "progress": progress}
    scores = chosen.function(model, finding.clean, finding.corrupt, finding.metric, **given)
    circuit = select(model, scores, edges, how=how)
    circuit = replace(circuit, about={**circuit.about, "task": task, "prompts": count, "seed": seed})
    if before_judging is not None:
        before_judging(circuit)
    test = judging.clean, judging.corrupt, judging.metric
    alike = {"fractions": SHARES, "how": how, "ablation": ablation, "progress": progress}
    placed = faithfulness_curve(model, *test, scores, positions=there, **alike)
    everywhere = faithfulness_curve(model, *test, scores.sum("pos", skipna=False), **alike)
    document = SPAN_CIRCUIT.document(
        model_facts(model, "name", "n_layers", "n_heads", "d_model", "dtype"),
        task=task,
        about={"method": method, "how": how, "ablation": ablation, "prompts": count, "seed": seed},
        places=[_place(name, rows, drawn.clean.text) for name, rows in schema.items()],
        size={"edges": len(circuit.edges), "of": len(schema) * int(_mean(scores).isel(pos=0).notnull().sum())},
        edges=_strongest(circuit, k),
        map=_map(scores, k),
        curve=_rows(placed, everywhere),
        cancelled=_cancelled(scores),
        provenance=dict(model.provenance()),
    )
    return SpanCircuit(circuit, document)


def _place(name: str, rows: list[list[int]], text: list[list[str]]) -> dict[str, Any]:
    """A place, the prompts that have it, and what stands there in the first of them."""
    having = [b for b, row in enumerate(rows) if row]
    first = having[0]
    example = "".join(text[first][at] for at in rows[first])
    return {"name": name, "prompts": len(having), "tokens": sum(map(len, rows)), "example": example}


def _mean(scores: xr.DataArray) -> xr.DataArray:
    return scores.mean("batch", skipna=False)


def _strongest(circuit: Circuit, k: int) -> list[dict[str, Any]]:
    ranked = sorted(circuit.edges, key=lambda edge: (-abs(circuit.scores[edge]), str(edge)))[:k]
    return [{"edge": str(_unplaced(e)), "place": e.target.pos, "effect": -circuit.scores[e]} for e in ranked]


def _unplaced(edge: Edge) -> Edge:
    return Edge(replace(edge.source, pos=""), replace(edge.target, pos=""), edge.slot)


def _map(scores: xr.DataArray, k: int) -> list[dict[str, Any]]:
    """What each of the strongest components' writes does, place by place: its edges' scores, with the sign turned."""
    effects = -_mean(scores).sum("reader").transpose("writer", "pos")
    strongest = np.argsort(-np.abs(effects.values).max(1), kind="stable")[:k]
    return [
        {"component": str(effects.writer.values[i]), "effects": effects.values[i].astype(float).tolist()}
        for i in sorted(strongest.tolist())
    ]


def _rows(placed: xr.Dataset, everywhere: xr.Dataset) -> list[dict[str, Any]]:
    return [
        {
            "share": float(placed.fraction[i]),
            "edges": int(placed.edges[i]),
            **{name: [float(part[key][i]) for key in _RECOVERED] for name, part in both},
        }
        for both in [(("placed", placed), ("everywhere", everywhere))]
        for i in range(placed.sizes["variant"])
    ]


_RECOVERED = ("recovered", "recovered_low", "recovered_high")


def _cancelled(scores: xr.DataArray) -> float:
    """How much of the edges' scores their sums over places lose."""
    mean = _mean(scores)
    return 1 - float(abs(mean.sum("pos", skipna=False)).sum()) / float(abs(mean).sum())
