"""Faithfulness over sizes, and its area: the circuit track of the Mechanistic Interpretability Benchmark (3.2.21).

    CPR = integral of f over the share of edges         more is better; signed scores
    CMD = integral of |1 - f| over the share of edges   less is better; scores by size
    f(k) = (m(C_k) - m(empty)) / (m(M) - m(empty)),     C_k the k edges of highest score

The benchmark takes ten shares from 0.1 % to all, floor(share x edges) edges each, and the trapezoid on a linear axis.
The segments above 20 % make up nine tenths of that area, so that a random order still has CPR 0.25 and CMD 0.75; the
same areas over the logarithm of the share, divided by its range, stand beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.localize.circuits.faithfulness import recovered
from caseback.localize.circuits.machinery.bootstrap import interval
from caseback.localize.circuits.machinery.circuit_runs import CircuitRuns
from caseback.localize.circuits.selecting import WAYS, edge_table, placed_table, select_mask, select_masks
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The benchmark's shares of edges."""


@technique(
    role="judgement",
    entry=("3.2.21", "B.6"),
    citation="Mueller et al. 2025, Hanna et al. 2024",
    cost="1 circuit run per size",
)
def faithfulness_curve(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    scores: xr.DataArray | Circuit | Sequence[Circuit],
    *,
    fractions: Sequence[float] = FRACTIONS,
    sizes: Sequence[int] | None = None,
    absolute: bool = True,
    how: str = "top",
    prune: bool = True,
    ablation: str = "resample",
    over: PromptsLike | None = None,
    positions: Mapping[str, Any] | None = None,
    inputs: tuple[str, ...] = ("embed",),
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """How faithful the best edges are, for ever more of them.

    Parameters
    ----------
    model, clean, corrupt, metric
        As for ``faithfulness``.
    scores
        One score per edge: an array (writer, reader) or (writer, reader, batch), of which the mean over prompts is
        taken, or a ``Circuit`` with scores. Or circuits of several sizes, such as one search at several thresholds.
        With ``pos``, edges at places: each counts once a place, so that the same share of edges without places is as
        many edges at places.
    fractions
        Shares of the model's edges.
    sizes
        Numbers of edges instead.
    absolute
        Rank by the score's size. The benchmark reports CMD so, and CPR with False: then a score must be positive
        where the edge helps, which is the opposite of ``edge_attribution``'s noising sign.
    how
        ``"top"`` or ``"greedy"``, as for ``select``.
    positions
        Where the places of the scores are in these prompts, as ``span_schema`` gives it.
    prune, ablation, over, inputs, resamples, level, seed, progress
        As for ``faithfulness``.

    Returns
    -------
    xr.Dataset
        Over variant: ``recovered`` with ``recovered_low`` and ``recovered_high``, and ``values``, the metric (variant,
        batch); coordinates ``fraction``, ``edges`` (asked for) and ``kept`` (after pruning). Attributes ``cpr``,
        ``cmd``, ``cpr_log``, ``cmd_log``, the bootstrap interval of the first two, and the mean metric ``whole`` and
        ``empty``. Where sizes or circuits are given, the curve is closed with the whole model, of which 1 is recovered.

    Raises
    ------
    OutOfRange
        For a share outside [0, 1] or a number of edges that the model does not have.
    CasebackError
        For scores of another model, or of places that are not among ``positions``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> ioi = cb.tasks.ioi().prompts(model, 8)
    >>> scores = cb.localize.circuits.edge_attribution(model, ioi.clean, ioi.corrupt, ioi.metric)
    >>> curve = faithfulness_curve(model, ioi.clean, ioi.corrupt, ioi.metric, scores)
    >>> curve.edges.values.tolist()[-3:], round(float(curve.recovered[-1]), 3), 0 < curve.attrs["cmd"] < 1
    ([137, 342, 685], 1.0, True)
    """
    if how not in WAYS:
        raise CasebackError(f"how {how!r} is unknown. {did_you_mean(how, WAYS)}")
    graph = Graph.of(model.anatomy, inputs)
    total, names = len(graph.edges), list[str]()
    if isinstance(scores, xr.DataArray) and "pos" in scores.dims:
        table, names, sees = placed_table(graph, scores)
        total *= len(names)
        counts = _counts(total, fractions, sizes)
        ranked = {"how": how, "absolute": absolute, "prune": prune}
        masks = torch.stack([select_masks(graph, table, n, sees, **ranked) for n in counts])
        masks = torch.cat([masks, torch.zeros_like(masks[:, :1])], 1)  # of tokens without a name nothing stands
    elif isinstance(scores, Circuit | xr.DataArray):
        table = edge_table(graph, scores)
        counts = _counts(total, fractions, sizes)
        ranked = {"how": how, "absolute": absolute, "prune": False}
        none = torch.zeros_like(graph.exists)
        masks = torch.stack([select_mask(graph, table, n, **ranked) if n else none for n in counts])
    else:
        given = sorted(scores, key=len)
        if not given:
            raise CasebackError("no circuit given: expected scores, or circuits of several sizes")
        masks = torch.stack([graph.mask(circuit) for circuit in given])
        counts = masks.sum((1, 2)).tolist()
    own_shares = isinstance(scores, Circuit | xr.DataArray) and sizes is None
    if not own_shares and counts[-1] < total:
        masks, counts = torch.cat([masks, graph.exists.expand_as(masks[:1])]), [*counts, total]
    shares = np.asarray(fractions if own_shares else [count / total for count in counts], dtype=np.float64)
    circuits = torch.stack([graph.connected(mask) for mask in masks]) if prune and not names else masks
    placed = {"places": names, "positions": positions}
    runs = CircuitRuns(model, graph, clean, corrupt, metric, ablation=ablation, over=over, **placed)
    metrics, empty = runs.metrics(circuits, progress=progress).numpy(), runs.empty.numpy()
    arrays = [metrics, np.broadcast_to(empty, metrics.shape), np.broadcast_to(runs.whole.numpy(), metrics.shape)]
    settings = {"resamples": resamples, "level": level, "seed": seed}
    values = recovered(*(part.mean(-1) for part in arrays))
    low, high = interval(recovered, *arrays, **settings)
    summary: dict[str, Any] = areas(shares, values)
    for name in ("cpr", "cmd"):
        ends = interval(lambda *means, name=name: areas(shares, recovered(*means))[name], *arrays, **settings)
        summary[f"{name}_low"], summary[f"{name}_high"] = (float(end) for end in ends)
    coords = {
        "fraction": ("variant", shares),
        "edges": ("variant", np.asarray(counts)),
        "kept": ("variant", (circuits[:, :-1] if names else circuits).flatten(1).sum(1).numpy()),
    }
    attrs = {"technique": faithfulness_curve, "model": model, "metric": metric.name, "ablation": ablation, **settings}
    attrs |= {"absolute": absolute, "pruned": prune, **summary}
    attrs |= {"whole": float(runs.whole.mean()), "empty": float(empty.mean())}
    named = {"recovered": values, "recovered_low": low, "recovered_high": high}
    variables = {name: labelled(value, ["variant"], coords, **attrs) for name, value in named.items()}
    variables["values"] = labelled(metrics, ["variant", "batch"], coords, **attrs)
    return xr.Dataset(variables, attrs=variables["recovered"].attrs)


def areas(shares: Float[np.ndarray, " size"], values: Float[np.ndarray, "size *sample"]) -> dict[str, Any]:
    """Areas under a curve of faithfulness: ``cpr`` and ``cmd`` as the benchmark has them, and over the logarithm.

    Examples
    --------
    >>> area = areas(np.array([0.001, 0.5, 1.0]), np.array([0.0, 1.0, 1.0]))
    >>> round(area["cpr"], 4), round(area["cmd"], 4)
    (0.7495, 0.2495)
    """
    logs = np.log(np.maximum(shares, 1e-9))
    span = logs[-1] - logs[0] or 1.0
    integrals = {"cpr": _area(shares, values), "cmd": _area(shares, np.abs(1 - values))}
    integrals |= {"cpr_log": _area(logs, values) / span, "cmd_log": _area(logs, np.abs(1 - values)) / span}
    return {name: float(area) if np.ndim(area) == 0 else area for name, area in integrals.items()}


def _counts(total: int, fractions: Sequence[float], sizes: Sequence[int] | None) -> list[int]:
    if sizes is not None:
        wrong = [size for size in sizes if not 0 < size <= total]
        if wrong or not sizes:
            raise OutOfRange(f"{(wrong or [0])[0]} edges asked for: expected 1 to {total}")
        return sorted(sizes)
    wrong = [share for share in fractions if not 0 <= share <= 1]
    if wrong or len(fractions) < 2 or list(fractions) != sorted(fractions):
        raise OutOfRange(f"fractions {list(fractions)}: expected at least two rising shares between 0 and 1")
    return [int(share * total) for share in fractions]


def _area(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    steps = np.diff(x).reshape(-1, *[1] * (y.ndim - 1))
    return (steps * (y[1:] + y[:-1]) / 2).sum(0)
