"""Is all that matters in the circuit? Take the same parts from circuit and model, and compare (PRIMER 3.2.21).

    gap(K) = | F(C - K) - F(M - K) |      small for every set K of the circuit's parts, if it is complete

F is the metric's mean over prompts. There are too many sets to try them all: random ones, sets named by hand (heads of
one role), or sets grown greedily, the part that widens the gap most being added at each step (Wang et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.jobs.progress import progress_bar
from caseback.localize.circuits.machinery.circuit_members import Parts, grouped
from caseback.localize.circuits.machinery.circuit_runs import CircuitRuns
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

SEARCHES = ("random", "greedy", "roles")


@technique(
    role="judgement",
    entry=("3.2.21",),
    citation="Wang et al. 2023",
    cost="2 circuit runs per set; greedy: 2 per part and step",
)
def completeness(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    circuit: Circuit,
    *,
    subsets: str | Sequence[Sequence[str]] = "random",
    of: str = "nodes",
    count: int = 20,
    depth: int = 10,
    candidates: int | None = None,
    ablation: str = "resample",
    over: PromptsLike | None = None,
    inputs: tuple[str, ...] = ("embed",),
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Remove the same parts from a circuit and from the whole model, and see whether they behave alike.

    Parameters
    ----------
    model, clean, corrupt, metric
        As for ``faithfulness``.
    circuit
        The circuit.
    subsets
        ``"random"``: each part with probability one half. ``"greedy"``: grown part by part to widen the gap.
        ``"roles"``: the nodes of each of the circuit's roles. Or sets of parts by name.
    of
        ``"nodes"`` (heads and MLPs, with all their outgoing edges) or ``"edges"``.
    count
        How many random sets, or greedy searches.
    depth
        How many parts a greedy search removes at most.
    candidates
        Parts tried in a step of a greedy search, drawn at random; all of them by default, which makes all searches
        the same. Wang et al. run 10 searches with 10 candidates each.
    ablation, over, inputs
        As for ``faithfulness``.
    seed
        Same seed, same result. It draws the sets and the candidates.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        Over variant, one per set: ``circuit`` = F(C - K), ``model`` = F(M - K), ``gap``; coordinates ``removed`` (K as
        text) and ``size``. A greedy search gives one set per step. Attributes: ``worst`` (gap), ``worst_share``, that
        over F(M) - F(empty), and ``worst_set``.

    Raises
    ------
    CasebackError
        For an unknown way of choosing sets, a circuit without such parts or roles, and as ``faithfulness``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> ioi = cb.tasks.ioi().prompts(model, 8)
    >>> whole = Graph.of(model.anatomy).circuit(Graph.of(model.anatomy).exists)
    >>> gaps = completeness(model, ioi.clean, ioi.corrupt, ioi.metric, whole, count=4)
    >>> round(gaps.attrs["worst"], 6), gaps.sizes["variant"]
    (0.0, 4)
    """
    if count < 1 or depth < 1 or (candidates is not None and candidates < 1):
        raise OutOfRange(f"count={count}, depth={depth}, candidates={candidates}: expected at least 1")
    graph = Graph.of(model.anatomy, inputs)
    parts = Parts.of(graph, circuit, of)
    runs = CircuitRuns(model, graph, clean, corrupt, metric, ablation=ablation, over=over)
    if subsets == "greedy":
        sets, values = _greedy(parts, runs, count, min(depth, len(parts.names)), candidates, seed, progress)
    else:
        sets = _sets(parts, circuit, subsets, count, seed)
        values = torch.stack(parts.gaps(runs, sets, progress))
    of_circuit, of_model = values.mean(-1).numpy()
    gaps = np.abs(of_circuit - of_model)
    most = int(gaps.argmax())
    span = float(runs.whole.mean() - runs.empty.mean())
    coords = {
        "removed": ("variant", [parts.text(row) for row in sets]),
        "size": ("variant", sets.sum(1).numpy()),
    }
    attrs = {
        "technique": completeness,
        "model": model,
        "metric": metric.name,
        "ablation": ablation,
        "subsets": subsets,
        "of": of,
        "seed": seed,
        "worst": float(gaps[most]),
        "worst_share": float(gaps[most]) / abs(span) if span else float("inf"),
        "worst_set": parts.text(sets[most]),
    }
    named = {"circuit": of_circuit, "model": of_model, "gap": gaps}
    variables = {name: labelled(value, ["variant"], coords, **attrs) for name, value in named.items()}
    return xr.Dataset(variables, attrs=variables["gap"].attrs)


def _sets(
    parts: Parts, circuit: Circuit, subsets: str | Sequence[Sequence[str]], count: int, seed: int
) -> Bool[Tensor, "set part"]:
    if not isinstance(subsets, str):
        return grouped(parts, subsets)
    if subsets == "random":
        return parts.random(count, seed)
    if subsets != "roles":
        raise CasebackError(f"subsets {subsets!r} is unknown. {did_you_mean(subsets, SEARCHES)}")
    roles: dict[str, list[str]] = {}
    for node, role in circuit.at_all_positions().roles.items():
        if str(node) in parts.names:
            roles.setdefault(role, []).append(str(node))
    if not roles:
        raise CasebackError("the circuit's nodes have no roles: expected Circuit.roles, or subsets='random'")
    return grouped(parts, list(roles.values()))


def _greedy(
    parts: Parts, runs: CircuitRuns, count: int, depth: int, candidates: int | None, seed: int, progress: bool
) -> tuple[Bool[Tensor, "set part"], Float[Tensor, "two set batch"]]:
    """Sets that grow by the part that widens the gap most; one row per step of each search."""
    generator, n = torch.Generator().manual_seed(seed), len(parts.names)
    sets, values = [], []
    searches = count if candidates is not None and candidates < n else 1
    for _ in progress_bar(range(searches), "searches", show=progress):
        removed = torch.zeros(n, dtype=torch.bool)
        for _ in range(depth):
            left = (~removed).nonzero()[:, 0]
            drawn = torch.randperm(len(left), generator=generator)[: candidates or n].sort().values
            trials = removed.repeat(len(drawn), 1)
            trials[torch.arange(len(drawn)), left[drawn]] = True
            metrics = torch.stack(parts.gaps(runs, trials))
            best = int((metrics[0] - metrics[1]).mean(-1).abs().argmax())
            removed = trials[best]
            sets.append(removed)
            values.append(metrics[:, best])
    return torch.stack(sets), torch.stack(values, 1)
