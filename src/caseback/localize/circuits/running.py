"""A model run as a circuit: every edge outside it carries something else (PRIMER 3.2.21, 3.2.22).

    input_v = stream + sum over edges (u -> v) outside the circuit of  (other_u - u)

u is what the writer writes in this very pass, so what is changed upstream goes on downstream; other_u is what it wrote
in the counterfactual run, its mean over reference prompts, the constant that costs least, or zero. Nothing else is
touched: the whole graph is the model, the empty one is the counterfactual run. Many circuits run side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.localize.circuits.machinery.circuit_runs import CircuitRuns
from caseback.localize.circuits.machinery.masks import masks_of, places_of
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(
    role="circuit",
    entry=("3.2.21", "3.2.22", "B.7"),
    citation="Wang et al. 2023, Conmy et al. 2023, Miller et al. 2024, Li and Janson 2024",
    cost="1 forward + the edges' sums, for each circuit",
)
def run_circuit(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    circuits: Circuit | Sequence[Circuit] | Bool[Tensor, "*variant writer reader"],
    *,
    ablation: str | Float[Tensor, "writer d_model"] = "resample",
    over: PromptsLike | None = None,
    positions: Mapping[str, Any] | None = None,
    inputs: tuple[str, ...] = ("embed",),
    progress: bool = False,
) -> xr.DataArray:
    """Run the model with every edge outside a circuit carrying another run's value, a constant or zero.

    Parameters
    ----------
    model
        The model.
    clean, corrupt
        Prompts and their counterfactuals, token-aligned. Only resampling needs the latter; else they may be None.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    circuits
        One or several: ``Circuit`` or masks of the graph's edges (``Graph.mask``; ``Graph.into`` for a circuit of
        heads' inputs). A circuit of nodes without edges keeps all that these nodes and the embeddings write, and
        replaces the writes of all others. An edge or a node with a position, ``L1H0 -> MLP 2@end``, is kept there and
        cut elsewhere.
    ablation
        What an edge outside carries: ``"resample"``, what its writer wrote in the corrupt run; ``"mean"``, what it
        writes on average over the reference prompts and their positions, ``"mean_by_position"`` over the prompts
        alone; ``"zero"``; ``"optimal"``, the constant of each writer with which, in this circuit, the KL divergence
        from the model is least (``optimal_writes``). Or such constants.
    over
        Reference prompts for the mean; the clean prompts themselves by default.
    positions
        Where the names in a circuit's positions are: positions as edits take them, a text, or (batch, 2) first and
        last as in a task's ``prompts.spans``. Numbers name themselves.
    inputs
        As for ``edge_attribution``.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (variant, batch), the metric of each circuit. Beside it ``whole``, the model's own, and ``edges``, how many
        edges each circuit has (at its places, counted one by one).

    Raises
    ------
    TokensError
        For counterfactuals that are not token-aligned.
    CasebackError
        For a circuit of another model or one with edges of which none connects an input with the logits, an unknown
        ablation or position, resampling without counterfactuals.

    Examples
    --------
    >>> import torch, caseback as cb
    >>> model = cb.load("meadow")
    >>> graph = Graph.of(model.anatomy)
    >>> pair, metric = ("Mary gave the ball to", "John gave the ball to"), cb.logit_diff(" Mary", " John")
    >>> ran = run_circuit(model, *pair, metric, torch.stack([graph.exists, ~graph.exists & graph.exists]))
    >>> corrupt = float(metric(model.run(pair[1])))
    >>> bool(abs(ran[0] - ran.whole).max() < 1e-3), bool(abs(ran[1] - corrupt).max() < 1e-3)
    (True, True)
    """
    graph = Graph.of(model.anatomy, inputs)
    names = places_of(circuits)
    masks = masks_of(graph, circuits, names)
    circuit_runs = CircuitRuns(
        model, graph, clean, corrupt, metric, ablation=ablation, over=over, places=names, positions=positions
    )
    values = circuit_runs.metrics(masks, progress=progress)
    return labelled(
        values,
        ["variant", "batch"],
        {"whole": ("batch", circuit_runs.whole), "edges": ("variant", masks.sum((-1, -2, -3)))},
        name="metric",
        technique=run_circuit,
        model=model,
        metric=metric.name,
        ablation=ablation if isinstance(ablation, str) else "constants",
    )
