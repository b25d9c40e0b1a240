"""How much of a model's behavior a circuit of nodes has, and how much the model has without it (PRIMER 3.2.29).

    faithfulness   (m(C) - m(empty)) / (m(M) - m(empty))          1 for the model, 0 for nothing
    completeness   the same of all nodes outside C                0 where nothing that matters was left out

Errors are counted in three ways, since what a dictionary leaves may carry an answer: as the circuit has them; all of
them kept, in the circuit as in the empty one, so that the features alone are judged; and none of them kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.localize.circuits.features.outside import NodeRuns
from caseback.localize.circuits.features.places import gaps_of, places_of
from caseback.model.arguments import checked
from caseback.model.circuit import Circuit, Node
from caseback.model.prompts.per_token import expect_metric
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

WAYS = ("errors of the circuit", "all errors", "no errors")


@technique(
    role="judgement",
    entry=("3.2.29", "3.2.21"),
    citation="Marks et al. 2024",
    cost="6 forwards a circuit, 3 where there are no errors",
)
def feature_faithfulness(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    circuits: Circuit | Sequence[Circuit],
    *,
    sites: str | Sequence[Any] = ("feature", "feature_error"),
    sizes: Sequence[int] | None = None,
    ablation: str = "mean",
    over: PromptsLike | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Run circuits with every other node of some sites set to another value, and say how much of the metric is left.

    Nodes are what counts: edges are not cut.

    Parameters
    ----------
    model, clean, corrupt, metric
        As for ``feature_effects``; only resampling needs corrupt.
    circuits
        One or several, of nodes of ``sites``.
    sites
        Whose nodes are outside where the circuit does not name them: as for ``feature_circuit``.
    sizes
        For one circuit with scores: judge its strongest so many nodes, errors not counted (``strongest_nodes``), for
        each of these. The circuit's errors are left out of all of them.
    ablation
        ``"mean"`` over prompts and positions (the paper's), ``"resample"``, the counterfactual's value at the same
        position, or ``"zero"``.
    over
        Reference prompts for the mean; the clean prompts themselves by default.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        Over (measure, variant), measure being the way in which errors are counted (``"errors of the circuit"``,
        ``"all errors"``, ``"no errors"``): ``faithfulness`` and ``completeness``, of means over prompts; and
        ``values`` (measure, variant, batch), the metric. ``empty`` (measure, batch) is that of no node; ``whole``
        (batch) the model's. Coordinates ``nodes`` and ``errors``, how many of each. Without error nodes among the sites
        all three ways agree.

    Raises
    ------
    CasebackError
        For a node that the sites do not have, an unknown ablation, or resampling without counterfactuals.
    OutOfRange
        For a size of which the circuit has no so many nodes.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> pair, metric = ("The key to the doors", "The keys to the doors"), cb.logit_diff(" is", " are")
    >>> circuit = cb.localize.circuits.feature_circuit(model, *pair, metric, sites="mlp_post", edges=False)
    >>> judged = feature_faithfulness(model, *pair, metric, circuit, sites="mlp_post", ablation="resample")
    >>> judged["faithfulness"].dims
    ('measure', 'variant')
    """
    metric, places = expect_metric(metric), places_of(model, sites)
    listed = [circuits] if isinstance(circuits, Circuit) else list(circuits)
    if not listed:
        raise CasebackError("no circuit given: expected one or several")
    if sizes is not None:
        if len(listed) != 1:
            raise CasebackError(f"{len(listed)} circuits and sizes= given: sizes are of one circuit with scores")
        listed = [strongest_nodes(listed[0], size) for size in sizes]
    runs = NodeRuns.of(model, clean, corrupt, metric, places, ablation, over)
    own = runs.masks([sorted(circuit.nodes) for circuit in listed])
    is_error = [place.kind == "error" for place in places]
    with_all = [torch.ones_like(m) if error else m for m, error in zip(own, is_error, strict=True)]
    without = [torch.zeros_like(m) if error else m for m, error in zip(own, is_error, strict=True)]
    whole = runs.whole()
    values, empties, rests = [], [], []
    for way, masks in enumerate((own, with_all, without)) if any(is_error) else [(0, own)]:
        # with all errors kept, they are kept in the empty circuit and outside of it as well
        always = [error and way == 1 for error in is_error]
        empty = [torch.full_like(m[:1], on) for m, on in zip(masks, always, strict=True)]
        rest = [~m | on for m, on in zip(masks, always, strict=True)]
        every = runs.metrics([torch.cat(parts) for parts in zip(masks, rest, empty, strict=True)], progress=progress)
        parts = every.split([len(listed), len(listed), 1])
        for column, part in zip((values, rests, empties), parts, strict=True):
            column.append(part)
    if len(values) == 1:
        values, rests, empties = values * 3, rests * 3, empties * 3
    metrics, others, nothing = torch.stack(values), torch.stack(rests), torch.cat(empties)
    coords = {
        "measure": list(WAYS),
        "nodes": ("variant", [sum(n.kind not in ("error", "logits") for n in c.nodes) for c in listed]),
        "errors": ("variant", [sum(n.kind == "error" for n in c.nodes) for c in listed]),
        "whole": ("batch", whole),
    }
    over_circuits = {key: value for key, value in coords.items() if key != "whole"}
    how: dict[str, Any] = {"technique": feature_faithfulness, "model": model, "metric": metric.name}
    how |= {"ablation": ablation, "uncovered": gaps_of(places)}
    table = {
        "faithfulness": labelled(_share(metrics, nothing, whole), ["measure", "variant"], over_circuits, **how),
        "completeness": labelled(_share(others, nothing, whole), ["measure", "variant"], over_circuits, **how),
        "values": labelled(metrics, ["measure", "variant", "batch"], coords, **how),
        "empty": labelled(nothing, ["measure", "batch"], {"measure": list(WAYS)}, **how),
    }
    return xr.Dataset(table, attrs=table["values"].attrs)


def _share(metrics: Tensor, empty: Tensor, whole: Tensor) -> Tensor:
    """Of means over prompts; infinite or undefined where the model itself does no more than nothing does."""
    floor = empty.mean(-1)[:, None]
    return (metrics.mean(-1) - floor) / (whole.mean() - floor)


@checked
def strongest_nodes(circuit: Circuit, count: int) -> Circuit:
    """The ``count`` nodes of largest score in size, errors and edges left out; ties go to the earlier node.

    Raises
    ------
    OutOfRange
        Where the circuit has fewer nodes with a score.
    """
    scored: list[tuple[Node, float]] = [
        (node, circuit.scores[node])
        for node in sorted(circuit.nodes)
        if node in circuit.scores and node.kind != "error"
    ]
    if not 0 < count <= len(scored):
        raise OutOfRange(f"{count} nodes asked for: expected 1 to {len(scored)}, as many as have a score")
    best = sorted(scored, key=lambda pair: -abs(pair[1]))[:count]
    return replace(circuit, edges=frozenset(), nodes=frozenset(node for node, _ in best))
