"""How much of a model's behavior a circuit has, in every convention in use (PRIMER 3.2.21).

    recovered   (m(C) - m(empty)) / (m(M) - m(empty))    means over prompts first: 1 for the model, 0 for nothing
    ratio       m(C) / m(M)
    difference  |m(M) - m(C)|
    kl          mean of KL(M || C) of the next-token distributions

m(C) is the metric with every edge outside C carrying something else, m(empty) with every edge carrying it. What that
is (the counterfactual's write, a mean, zero, the best constant) moves all four, so it is part of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from caseback.errors import CasebackError
from caseback.localize.circuits.machinery.bootstrap import Statistic, interval
from caseback.localize.circuits.machinery.circuit_runs import CircuitRuns
from caseback.localize.circuits.machinery.masks import masks_of, places_of
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric, kl
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(
    role="judgement",
    entry=("3.2.21", "B.7"),
    citation="Wang et al. 2023, Hanna et al. 2024, Miller et al. 2024, Li & Janson 2024",
    cost="1 circuit run for each circuit and ablation; optimal: steps x (forward + backward) each",
)
def faithfulness(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    circuits: Circuit | Sequence[Circuit] | Bool[Tensor, "*variant writer reader"],
    *,
    ablations: str | Sequence[str] = ("resample",),
    over: PromptsLike | None = None,
    positions: Mapping[str, Any] | None = None,
    inputs: tuple[str, ...] = ("embed",),
    with_kl: bool = False,
    prune: bool = True,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Run circuits, and say in each convention how much of the model's behavior they have.

    Parameters
    ----------
    model
        The model.
    clean, corrupt
        Prompts and their counterfactuals, token-aligned. Only resampling needs the latter.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    circuits
        One or several: ``Circuit`` or masks of the graph's edges.
    ablations
        What edges outside carry, one or several of those that ``run_circuit`` knows: ``"resample"``, ``"mean"``,
        ``"zero"``, ``"optimal"`` …
    over, positions, inputs
        As for ``run_circuit``.
    with_kl
        Measure the KL divergence too, which costs the same again.
    prune
        Leave out edges that lie on no path from an input to the logits, as Hanna et al. do; circuits that name
        positions stay as they are.
    resamples, level
        Of the bootstrap over prompts: how many samples, and how much the intervals cover.
    seed
        Same seed, same result. It draws the bootstrap's samples.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        Over variant, all circuits under the first ablation, then under the next: ``metric`` and ``empty`` (variant,
        batch), ``recovered``, ``ratio``, ``difference`` and perhaps ``kl``, each with ``_low`` and ``_high``.
        Coordinates: ``circuit`` (its number), ``ablation``, ``edges`` and ``whole`` (batch), the model's own metric.

    Raises
    ------
    TokensError
        For counterfactuals that are not token-aligned.
    CasebackError
        For a circuit of another model, one of which no edge lies on a path from an input to the logits, an unknown
        ablation, or a model whose metric is the same with every edge cut, of which nothing can be recovered.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> ioi = cb.tasks.ioi().prompts(model, 8)
    >>> graph = Graph.of(model.anatomy)
    >>> shares = faithfulness(model, ioi.clean, ioi.corrupt, ioi.metric, graph.exists, ablations=["resample", "zero"])
    >>> shares.recovered.values.round(3).tolist(), shares.ablation.values.tolist()
    ([1.0, 1.0], ['resample', 'zero'])
    """
    chosen = [ablations] if isinstance(ablations, str) else list(ablations)
    graph = Graph.of(model.anatomy, inputs)
    names = places_of(circuits)
    masks = on_paths(graph, masks_of(graph, circuits, names), prune)
    placed = {"places": names, "positions": positions}
    parts: dict[str, list[np.ndarray]] = {"metric": [], "empty": [], "kl": []}
    whole = np.zeros(0)
    for ablation in chosen:
        runs = CircuitRuns(model, graph, clean, corrupt, metric, ablation=ablation, over=over, **placed)
        whole = runs.whole.numpy()
        metrics = runs.metrics(masks, progress=progress).numpy()
        parts["metric"].append(metrics)
        parts["empty"].append(np.broadcast_to(runs.empty.numpy(), metrics.shape))
        if with_kl:
            theirs = kl(model.run(runs.tokens))
            diverging = CircuitRuns(model, graph, clean, corrupt, theirs, ablation=ablation, over=over, **placed)
            parts["kl"].append(diverging.metrics(masks, progress=progress).numpy())
    measured = {name: np.concatenate(values) for name, values in parts.items() if values}
    gap = np.abs(whole.mean() - measured["empty"].mean(-1))
    if (gap < 1e-9 * max(1.0, float(np.abs(whole).max()))).any():
        raise CasebackError(
            f"the metric is {whole.mean():.4g} with every edge and with none: there is nothing to recover. Take "
            "counterfactuals with another answer, or another metric"
        )
    settings = {"resamples": resamples, "level": level, "seed": seed}
    numbers: dict[str, np.ndarray] = {}
    for name, (statistic, arrays) in _conventions(measured, whole).items():
        numbers[name] = statistic(*(part.mean(-1) for part in arrays))
        numbers[f"{name}_low"], numbers[f"{name}_high"] = interval(statistic, *arrays, **settings)
    coords = {
        "circuit": ("variant", np.tile(np.arange(len(masks)), len(chosen))),
        "ablation": ("variant", np.repeat(chosen, len(masks))),
        "edges": ("variant", np.tile(masks.sum((1, 2, 3)).numpy(), len(chosen))),
        "whole": ("batch", whole),
    }
    attrs = {"technique": faithfulness, "model": model, "metric": metric.name, "pruned": prune, **settings}
    only = {key: value for key, value in coords.items() if key != "whole"}
    variables = {name: labelled(measured[name], ["variant", "batch"], coords, **attrs) for name in ("metric", "empty")}
    variables |= {name: labelled(value, ["variant"], only, **attrs) for name, value in numbers.items()}
    return xr.Dataset(variables, attrs=variables["metric"].attrs)


def recovered(circuit: np.ndarray, empty: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The share of what the edges do that a circuit's edges do, from means.

    Examples
    --------
    >>> float(recovered(np.array(3.0), np.array(1.0), np.array(5.0)))
    0.5
    """
    return (circuit - empty) / (whole - empty)


def on_paths(graph: Graph, masks: Bool[Tensor, "variant place writer reader"], prune: bool = True) -> Tensor:
    """Circuits of one place without the edges that lie on no path from an input to the logits; others as they are.

    Raises
    ------
    CasebackError
        For a circuit of which no edge lies on one.
    """
    connected = torch.stack([graph.connected(mask.any(0)) for mask in masks])
    lost = masks.any(3).any(2).any(1) & ~connected.any(2).any(1)
    if bool(lost.any()):
        at = int(lost.int().argmax())
        raise CasebackError(
            f"circuit {at} is disconnected: none of its {int(masks[at].any(0).sum())} edges lies on a path from an "
            "input to the logits; add edges, or ask for more of them"
        )
    return connected[:, None] if prune and masks.shape[1] == 1 else masks


def _conventions(measured: dict[str, np.ndarray], whole: np.ndarray) -> dict[str, tuple[Statistic, list[np.ndarray]]]:
    """Each convention as a function of means, and the arrays whose means they are."""
    m, empty = measured["metric"], measured["empty"]
    all_of_it = np.broadcast_to(whole, m.shape)
    conventions: dict[str, tuple[Statistic, list[np.ndarray]]] = {
        "recovered": (recovered, [m, empty, all_of_it]),
        "ratio": (lambda c, w: c / w, [m, all_of_it]),
        "difference": (lambda c, w: np.abs(w - c), [m, all_of_it]),
    }
    if "kl" in measured:
        conventions["kl"] = (lambda divergence: divergence, [measured["kl"]])
    return conventions
