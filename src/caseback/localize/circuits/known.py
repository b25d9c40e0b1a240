"""How well scores find a circuit that is known: ROC over edges (PRIMER 3.2.21, 3.2.24).

    AUROC = P(score of a true edge > score of another edge) + P(equal) / 2

Scores of all edges give a curve, one threshold after the other; a circuit without scores is a curve of one point. So do
Conmy et al. judge ACDC against circuits from papers, and the Mechanistic Interpretability Benchmark against compiled
ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from sklearn.metrics import roc_auc_score, roc_curve

from caseback.errors import CasebackError, did_you_mean
from caseback.localize.circuits.machinery.sizes import inputs_of
from caseback.localize.circuits.selecting import edge_table
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model

REDUCE = ("abs_of_mean", "mean_of_abs", "mean")


@technique(
    role="judgement",
    entry=("3.2.21", "B.6"),
    citation="Conmy et al. 2023, Mueller et al. 2025",
    cost="none beyond the scores",
)
def edge_roc(
    model: Model,
    scores: xr.DataArray | Circuit,
    truth: Circuit,
    *,
    reduce: str = "abs_of_mean",
    without: Sequence[str] = (),
) -> xr.Dataset:
    """Compare scores of edges, or a circuit, with the edges that are known to matter.

    Parameters
    ----------
    model
        The model. The edges are its own.
    scores
        (writer, reader) or (writer, reader, batch); or a ``Circuit``, whose edges count as found and all others not.
        Its scores are not used: what ACDC writes beside its edges is not a ranking.
    truth
        The known circuit; positions are dropped.
    reduce
        Over prompts: ``"abs_of_mean"``, the size of the mean; ``"mean_of_abs"``, so that prompts of opposite sign do
        not cancel; ``"mean"``, signed.
    without
        Writers whose edges do not count, such as ``"pos_embed"`` where the counterfactuals share the positions.

    Returns
    -------
    xr.Dataset
        Over variant, one per threshold: ``tpr`` and ``fpr``, coordinate ``threshold``. Attributes: ``auroc``, ``edges``
        and ``true_edges``.

    Raises
    ------
    CasebackError
        For scores or a circuit of another model, or a truth that has none or all of the edges.

    Examples
    --------
    >>> from caseback.organisms.compiled import build
    >>> organism = build("previous_token", alphabet="ab", max_length=4)
    >>> edge_roc(organism.model, organism.circuit, organism.circuit).attrs["auroc"]
    1.0
    """
    if reduce not in REDUCE:
        raise CasebackError(f"reduce {reduce!r} is unknown. {did_you_mean(reduce, REDUCE)}")
    if isinstance(scores, Circuit):
        graph = Graph.of(model.anatomy, inputs_of(truth | scores))
        values = graph.mask(scores.at_all_positions()).double()
    else:
        apart = "writer" in scores.coords and "pos_embed" in scores.writer.values
        graph = Graph.of(model.anatomy, ("embed", "pos_embed") if apart else ("embed",))
        rest = [dim for dim in scores.dims if dim not in ("writer", "reader")]
        sized = abs(scores).mean(rest, keep_attrs=True) if reduce == "mean_of_abs" else scores.mean(rest)
        values = edge_table(graph, sized)
        values = values.abs() if reduce != "mean" else values
    counted = graph.exists & torch.tensor([str(node) not in without for node in graph.writers])[:, None]
    wanted = graph.mask(truth.at_all_positions())[counted].numpy()
    given = values[counted].numpy()
    if wanted.all() or not wanted.any():
        raise CasebackError(f"the known circuit has {int(wanted.sum())} of {len(wanted)} edges: no curve can be drawn")
    fpr, tpr, thresholds = roc_curve(wanted, given)
    coords = {"threshold": ("variant", np.where(np.isfinite(thresholds), thresholds, np.nan))}
    attrs = {
        "technique": edge_roc,
        "model": model,
        "auroc": float(roc_auc_score(wanted, given)),
        "edges": len(wanted),
        "true_edges": int(wanted.sum()),
        "reduce": reduce,
    }
    variables = {
        name: labelled(torch.tensor(value), ["variant"], coords, **attrs)
        for name, value in (("tpr", tpr), ("fpr", fpr))
    }
    return xr.Dataset(variables, attrs=variables["tpr"].attrs)
