"""TRAK: after training, a model is read as a kernel machine on its projected gradients (PRIMER 3.1.25).

    tau(q) = (1/M sum_m phi_m(q)^T (Phi_m^T Phi_m)^-1 Phi_m^T) * (1/M sum_m Q_m)
    phi_m(z) = P_m^T grad_theta sum_t log(p / (1 - p)),    Q_m = 1 - p

m runs over checkpoints, trained alike on other draws. A text has many predictions: phi adds up their margins, and Q
is their mean 1 - p; for a single prediction that is the formula as it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.localize.inputs.training.examples import reusable
from caseback.localize.inputs.training.matrices import DEFAULT_PARTS
from caseback.localize.inputs.training.prepared import Options, each_checkpoint, prepare
from caseback.localize.inputs.training.projection import Projection
from caseback.localize.inputs.training.rows import dots
from caseback.localize.inputs.training.solving import check_damping, damped
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model

SKETCH = Projection("sparse", 4096)


@technique(
    role="training-data attribution",
    entry=("3.1.25",),
    citation="Park et al. 2023, Choe et al. 2024",
    cost="checkpoints x (forward + backward) per example",
)
def trak(
    model: Model,
    queries: Any,
    corpus: Any,
    metric: Metric | None = None,
    *,
    checkpoints: Sequence[Any] | None = None,
    projection: Projection = SKETCH,
    damping: float = 0.01,
    keep: int | None = None,
    parts: str | Sequence[str] = DEFAULT_PARTS,
    reduction: str = "sum",
    max_length: int | None = None,
    store: str | Path | None = None,
    token_budget: int | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """How each training example bears on queries, by regression on projected gradients of several checkpoints.

    Parameters
    ----------
    model
        The model.
    queries, corpus, metric
        As for ``influence_functions``. Without a metric the queries' own margin is explained, as in the paper.
    checkpoints
        Folders, hub ids or models: the paper takes 5 to 100, each trained on a random half. By default the model
        alone.
    projection
        ``Projection("sparse", 4096)`` (the paper: 4k to 16k), ``"rademacher"``, ``"normal"``, or ``"logra"`` for
        low-rank projections of each matrix; ``Projection("whole")`` for none. Each checkpoint has its own draw.
    damping
        Added to Phi^T Phi, as a share of its mean eigenvalue. The paper adds none, which needs more examples than
        dimensions.
    keep
        Soft-threshold each query's scores so that so many stay; all by default.
    parts, reduction, max_length, store, token_budget, progress
        As for ``influence_functions``; a store has one folder per checkpoint.

    Returns
    -------
    xr.DataArray
        (query, example).

    Raises
    ------
    CasebackError
        Where Phi^T Phi has no inverse and ``damping`` is 0, for an empty list of checkpoints or one of another model.
    LoadError
        For a store of another model, corpus or setup.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> corpus = ["Mary went to the store.", "The cat sat on the mat.", "John gave a book to Anna."]
    >>> scores = trak(model, "The cat sat on the mat.", corpus, projection=Projection("logra", 8))
    >>> int(scores.argmax("example")[0])
    1
    """
    check_damping(damping)
    if keep is not None and keep < 1:
        raise OutOfRange(f"keep is {keep}: expected at least 1")
    corpus = corpus if checkpoints is None else reusable(corpus)
    options = Options(parts, projection, reduction, max_length, store, token_budget, progress)
    kernels, missed, ready = [], [], None
    for number, (one, folder) in enumerate(each_checkpoint(model, checkpoints, store)):
        drawn = replace(projection, seed=projection.seed + number)
        options = replace(options, store=folder, projection=drawn)
        ready = prepare(one, queries, corpus, metric, options, output="margin")
        # (Phi^T Phi)^-1 is that of the mean over n
        solved = damped(ready.rows, ready.query_rows, damping, joint=True) / len(ready.rows.examples)
        scores, _, beside = dots(ready.rows, solved)
        kernels.append(scores)
        missed.append(beside["missed"])
    assert ready is not None
    scores = torch.stack(kernels).mean(0) * torch.stack(missed).mean(0)
    scores = scores if keep is None else soft_threshold(scores, keep)
    return ready.labelled(
        scores,
        model,
        replace(options, projection=projection),
        technique=trak,
        name="trak",
        metric=metric,
        damping=damping,
        checkpoints=len(kernels),
        kept=keep,
    )


def soft_threshold(scores: Float[Tensor, "query example"], keep: int) -> Float[Tensor, "query example"]:
    """Shrink a query's scores toward 0 by the size of the first that is not kept.

    Examples
    --------
    >>> soft_threshold(torch.tensor([[3.0, -2.0, 0.5]]), 2)
    tensor([[ 2.5000, -1.5000,  0.0000]])
    """
    if keep >= scores.shape[1]:
        return scores
    sizes = scores.abs()
    least = sizes.topk(keep + 1, dim=1).values[:, -1:]
    return (sizes - least).clamp_min(0) * scores.sign()
