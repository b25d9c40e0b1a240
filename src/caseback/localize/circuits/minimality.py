"""Is all that is in the circuit needed? A part counts if, without some others, its loss shows (PRIMER 3.2.21).

    score(v) = max over K of  | F(C - K - v) - F(C - K) |      large for every part v, if the circuit is minimal

A part that a second one backs up changes nothing when it goes alone, hence the sets K: none, everything that has v's
role, and random ones.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.localize.circuits.machinery.circuit_members import Parts
from caseback.localize.circuits.machinery.circuit_runs import CircuitRuns
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(role="judgement", entry=("3.2.21",), citation="Wang et al. 2023", cost="(parts + 1) circuit runs per set")
def minimality(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    circuit: Circuit,
    *,
    of: str = "nodes",
    count: int = 10,
    ablation: str = "resample",
    over: PromptsLike | None = None,
    inputs: tuple[str, ...] = ("embed",),
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """What each part of a circuit adds, given the set of other removals under which it adds most.

    Parameters
    ----------
    model, clean, corrupt, metric, circuit
        As for ``completeness``.
    of
        ``"nodes"`` or ``"edges"``.
    count
        How many random sets K, each part in it with probability one half; besides them the empty set and, where the
        circuit has roles, the other nodes of v's own role.
    ablation, over, inputs, seed, progress
        As for ``completeness``.

    Returns
    -------
    xr.Dataset
        Over component, one per part: ``score`` and ``share``, the score over F(M) - F(empty); ``alone``, the change
        with K empty, signed; and beside them ``given`` (the K of the score, as text). Attributes: ``least`` and
        ``least_part``.

    Raises
    ------
    CasebackError
        For a circuit without such parts, and as ``faithfulness``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> ioi = cb.tasks.ioi().prompts(model, 8)
    >>> whole = Graph.of(model.anatomy).circuit(Graph.of(model.anatomy).exists)
    >>> scores = minimality(model, ioi.clean, ioi.corrupt, ioi.metric, whole, count=1)
    >>> scores.sizes["component"], bool((scores.score >= abs(scores.alone) - 1e-6).all())
    (24, True)
    """
    if count < 0:
        raise OutOfRange(f"count={count}: expected 0 or more random sets")
    graph = Graph.of(model.anatomy, inputs)
    parts = Parts.of(graph, circuit, of)
    runs = CircuitRuns(model, graph, clean, corrupt, metric, ablation=ablation, over=over)
    n = len(parts.names)
    shared = torch.cat([torch.zeros(1, n, dtype=torch.bool), parts.random(count, seed)])
    # every K, then every K with one part v more; where v is in K already, K less v stands for K
    sets = shared[:, None].repeat(1, n, 1)
    sets[:, torch.arange(n), torch.arange(n)] = False
    own = _same_role(parts, circuit)
    sets = torch.cat([sets, own[None]])
    both = torch.stack([sets, sets | torch.eye(n, dtype=torch.bool)])
    # many of these sets are the same: each distinct one is run once, and place says where its value goes
    distinct, place = both.flatten(0, 2).unique(dim=0, return_inverse=True)
    values = runs.metrics(parts.circuit & parts.without(distinct), progress=progress).mean(-1)
    before, after = values[place].view(2, len(sets), n)
    change = (after - before).numpy()
    best = np.abs(change).argmax(0)
    scores = np.abs(change)[best, np.arange(n)]
    span = float(runs.whole.mean() - runs.empty.mean())
    coords = {"component": parts.names, "given": ("component", [parts.text(sets[best[v], v]) for v in range(n)])}
    least = int(scores.argmin())
    attrs = {
        "technique": minimality,
        "model": model,
        "metric": metric.name,
        "ablation": ablation,
        "of": of,
        "seed": seed,
        "least": float(scores[least]),
        "least_part": parts.names[least],
    }
    named = {"score": scores, "share": scores / abs(span) if span else np.full(n, np.inf), "alone": change[0]}
    variables = {name: labelled(value, ["component"], coords, **attrs) for name, value in named.items()}
    return xr.Dataset(variables, attrs=variables["score"].attrs)


def _same_role(parts: Parts, circuit: Circuit) -> Bool[Tensor, "part part"]:
    """For each part, the other parts of its role; none where there are no roles."""
    roles = {str(node): role for node, role in circuit.at_all_positions().roles.items()}
    mine = [roles.get(name) for name in parts.names]
    same = torch.tensor([[a is not None and a == b for b in mine] for a in mine])
    return same & ~torch.eye(len(mine), dtype=torch.bool)
