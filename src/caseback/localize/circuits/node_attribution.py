"""Attribution of nodes, for circuits of nodes: attribution patching and head importance (PRIMER 3.2.15, 3.2.27).

    score(u) = sum over positions of  (u(source) - u(base)) . d metric / d u  =  sum of its edges' scores

HISP ranks by the size of this; normalised, by its share of the l2 norm of the layer's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import xarray as xr

from caseback.localize.circuits.edge_attribution import edge_attribution
from caseback.model.circuit import Node
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(
    role="component effect",
    entry=("3.2.15", "3.2.26"),
    citation="Nanda 2023, Syed et al. 2023, Hanna et al. 2024",
    cost="as edge_attribution",
)
def node_attribution(
    model: Model, clean: PromptsLike, corrupt: PromptsLike | None, metric: Metric, **options: Any
) -> xr.DataArray:
    """Score every writer by what it would change in the metric if it wrote the other run's value, to first order.

    Parameters
    ----------
    model, clean, corrupt, metric
        As for ``edge_attribution``.
    **options
        ``steps``, ``along``, ``rule``, ``direction``, ``constants``, ``inputs``, ``batch_size``, as there. Published
        code lays the points of nodes by ``rule="riemann_right"``, those of edges by ``"riemann_left"``.

    Returns
    -------
    xr.DataArray
        (writer, batch), the sums of the scores of each writer's edges, in the same convention.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.circuits import select
    >>> model = cb.load("meadow")
    >>> pair = "Mary gave the ball to", "John gave the ball to"
    >>> scores = node_attribution(model, *pair, cb.logit_diff(" Mary", " John"))
    >>> scores.dims, len(select(model, scores, 5).nodes) <= 5 + 4 + 2
    (('writer', 'batch'), True)
    """
    edges = edge_attribution(model, clean, corrupt, metric, **options)
    return _as(node_attribution, model, edges.sum("reader"), edges.attrs)


@technique(
    role="circuit finder",
    entry=("3.2.27",),
    citation="Michel et al. 2019, Conmy et al. 2023",
    cost="2 forwards + 1 backward",
)
def hisp(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    *,
    normalise: bool = True,
    batch_size: int | None = None,
) -> xr.DataArray:
    """Head importance for subnetwork pruning: the size of each head's and MLP's first-order effect.

    Parameters
    ----------
    model, clean, corrupt, metric, batch_size
        As for ``edge_attribution``.
    normalise
        Divide by the l2 norm over the layer's heads (an MLP stands alone in its layer), as Michel et al. do; without
        it importances of MLPs can be told from one another.

    Returns
    -------
    xr.DataArray
        (writer,), the mean over prompts of |(h_corrupt - h_clean) . d metric / d h|; without the inputs, which are in
        every circuit.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> pair = "Mary gave the ball to", "John gave the ball to"
    >>> importance = hisp(model, *pair, cb.logit_diff(" Mary", " John"))
    >>> float((importance.sel(writer=[f"L0H{h}" for h in range(model.n_heads)]) ** 2).sum().round(6))
    1.0
    """
    scores = node_attribution(model, clean, corrupt, metric, batch_size=batch_size)
    nodes = [Node.parse(str(name)) for name in scores.writer.values]
    indices = [i for i, node in enumerate(nodes) if node.kind in ("head", "mlp")]
    sizes = abs(scores).mean("batch").isel(writer=indices)
    if normalise:
        layers = [(nodes[i].kind, nodes[i].layer) for i in indices]
        for group in set(layers):
            mine = [i for i, layer in enumerate(layers) if layer == group]
            norm = float((sizes[mine] ** 2).sum() ** 0.5)
            sizes[mine] = sizes[mine] / (norm or 1.0)  # a layer that does nothing is unimportant, not undefined
    return _as(hisp, model, sizes, {**scores.attrs, "normalised": normalise})


def _as(function: Callable[..., Any], model: Model, scores: xr.DataArray, attrs: dict[str, Any]) -> xr.DataArray:
    """Scores under the name of the technique that made them."""
    names = ("metric", "direction", "patch", "steps", "along", "rule", "normalised")
    settings = {name: attrs[name] for name in names if name in attrs}
    coords = {str(name): (coord.dims, coord.values) for name, coord in scores.coords.items()}
    return labelled(
        scores.values, [str(d) for d in scores.dims], coords, name="score", technique=function, model=model, **settings
    )
