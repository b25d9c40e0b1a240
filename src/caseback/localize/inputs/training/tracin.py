"""TracIn: what steps of training on an example did to a query, to first order (PRIMER 3.1.26).

    TracInCP(z, q) = sum_t eta_t grad L(z; theta_t) . grad L(q; theta_t)

One step of gradient descent on z lowers L(q) by eta grad L(z) . grad L(q); checkpoints stand for the steps about them.
One checkpoint and no learning rate is the dot product of gradients, and divided by their sizes its cosine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from caseback.errors import CasebackError, did_you_mean
from caseback.localize.inputs.training.examples import reusable
from caseback.localize.inputs.training.matrices import DEFAULT_PARTS
from caseback.localize.inputs.training.prepared import Options, each_checkpoint, prepare, rates_of
from caseback.localize.inputs.training.projection import WHOLE, Projection
from caseback.localize.inputs.training.rows import dots
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model

KINDS = ("cosine", "dot")


@technique(
    role="training-data attribution",
    entry=("3.1.26",),
    citation="Pruthi et al. 2020",
    cost="checkpoints x (forward + backward) per example",
)
def tracin(
    model: Model,
    queries: Any,
    corpus: Any,
    metric: Metric | None = None,
    *,
    checkpoints: Sequence[Any] | None = None,
    rates: float | Sequence[float] | None = None,
    projection: Projection = WHOLE,
    parts: str | Sequence[str] = DEFAULT_PARTS,
    reduction: str = "sum",
    max_length: int | None = None,
    store: str | Path | None = None,
    token_budget: int | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """How much training on each example raised the queries, summed over checkpoints.

    Parameters
    ----------
    model
        The model.
    queries, corpus, metric
        As for ``influence_functions``.
    checkpoints
        Folders, hub ids or models, in the order of training; the model alone by default.
    rates
        Learning rates: one, or one per checkpoint; 1 by default. Where a checkpoint stands for several steps, give the
        sum of theirs.
    projection
        How gradients are shortened; whole by default, so that the dot products are exact.
    parts, reduction, max_length, store, token_budget, progress
        As for ``influence_functions``; a store has one folder per checkpoint.

    Returns
    -------
    xr.DataArray
        (query, example): positive where training on the example raised the query's log-likelihood or metric.

    Raises
    ------
    CasebackError
        For an empty list of checkpoints, one of another model, or a number of rates that is not theirs.
    OutOfRange
        For a rate that is not above 0.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> corpus = ["Mary went to the store.", "The cat sat on the mat.", "John gave a book to Anna."]
    >>> scores = tracin(model, "John gave a book to Anna.", corpus, checkpoints=[model, model], rates=[0.2, 0.1])
    >>> int(scores.argmax("example")[0])
    2
    """
    given = rates_of(rates, 1 if checkpoints is None else len(checkpoints))
    corpus = corpus if checkpoints is None else reusable(corpus)
    options = Options(parts, projection, reduction, max_length, store, token_budget, progress)
    total, ready = None, None
    for rate, (one, folder) in zip(given, each_checkpoint(model, checkpoints, store), strict=True):
        ready = prepare(one, queries, corpus, metric, replace(options, store=folder))
        scores = rate * dots(ready.rows, ready.query_rows)[0]
        total = scores if total is None else total + scores.to(total)
    assert ready is not None and total is not None
    return ready.labelled(
        total,
        model,
        options,
        technique=tracin,
        name="tracin",
        metric=metric,
        checkpoints=len(given),
        rates=given,
    )


@technique(
    role="training-data attribution",
    entry=("3.1.26",),
    citation="Charpiat et al. 2019",
    cost="(forward + backward) per example",
)
def gradient_similarity(
    model: Model,
    queries: Any,
    corpus: Any,
    metric: Metric | None = None,
    *,
    kind: str = "cosine",
    projection: Projection = WHOLE,
    parts: str | Sequence[str] = DEFAULT_PARTS,
    reduction: str = "sum",
    max_length: int | None = None,
    store: str | Path | None = None,
    token_budget: int | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """How alike the gradients of queries and examples are: their cosine or dot product.

    Parameters
    ----------
    model, queries, corpus, metric, projection, parts, reduction, max_length, store, token_budget, progress
        As for ``influence_functions``.
    kind
        ``"cosine"``, which no large gradient dominates, or ``"dot"``.

    Returns
    -------
    xr.DataArray
        (query, example).

    Raises
    ------
    CasebackError
        For an unknown kind.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = gradient_similarity(model, "the cat sat", ["the cat sat", "Mary went home"])
    >>> round(float(scores[0, 0]), 4)
    1.0
    """
    if kind not in KINDS:
        raise CasebackError(f"kind {kind!r} is unknown. {did_you_mean(kind, KINDS)}")
    options = Options(parts, projection, reduction, max_length, store, token_budget, progress)
    ready = prepare(model, queries, corpus, metric, options)
    scores, squares, _ = dots(ready.rows, ready.query_rows)
    if kind == "cosine":
        sizes = ready.query_rows.norm(dim=1)[:, None] * squares.sqrt()
        # a gradient of nothing is like no other
        scores = torch.where(sizes > 0, scores / sizes, 0.0)
    return ready.labelled(
        scores,
        model,
        options,
        technique=gradient_similarity,
        name=f"gradient_{kind}",
        metric=metric,
        kind=kind,
    )
