"""DataInf: influence with a mean of inverses where the inverse of a mean belongs (PRIMER 3.1.27).

    (lambda + (1/n) sum_i g_i g_i^T)^-1  ~  (1/n) sum_i (lambda + g_i g_i^T)^-1

The right side needs no matrix: each term is a rank-one correction. It is exact for one example, and closer the fewer
parameters a block has, which is why it was made for low-rank adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from caseback.localize.inputs.training.matrices import DEFAULT_PARTS
from caseback.localize.inputs.training.prepared import Options, prepare
from caseback.localize.inputs.training.projection import WHOLE, Projection
from caseback.localize.inputs.training.rows import dots
from caseback.localize.inputs.training.solving import mean_of_inverses
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model


@technique(
    role="training-data attribution",
    entry=("3.1.27",),
    citation="Kwon et al. 2024",
    cost="(forward + backward) per example",
)
def datainf(
    model: Model,
    queries: Any,
    corpus: Any,
    metric: Metric | None = None,
    *,
    damping: float = 0.1,
    projection: Projection = WHOLE,
    parts: str | Sequence[str] = DEFAULT_PARTS,
    reduction: str = "sum",
    max_length: int | None = None,
    store: str | Path | None = None,
    token_budget: int | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """Influence of each training example on queries, by DataInf's closed form.

    Parameters
    ----------
    model, queries, corpus, metric, projection, reduction, max_length, store, token_budget, progress
        As for ``influence_functions``, and so is the sign.
    damping
        lambda of each matrix, as a share of its mean eigenvalue (1/n) sum |g|^2 / d; 0.1 as in the paper.
    parts
        See ``matrices_of``. The paper takes the matrices of low-rank adapters alone: name them by a pattern such as
        ``"*lora_[AB]*"``.

    Returns
    -------
    xr.DataArray
        (query, example).

    Raises
    ------
    OutOfRange
        For a damping that is not above 0.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> corpus = ["Mary went to the store.", "The cat sat on the mat.", "John gave a book to Anna."]
    >>> int(datainf(model, ("Mary went to the", " store"), corpus, parts="mlp").argmax("example")[0])
    0
    """
    options = Options(parts, projection, reduction, max_length, store, token_budget, progress)
    ready = prepare(model, queries, corpus, metric, options)
    scores, _, _ = dots(ready.rows, mean_of_inverses(ready.rows, ready.query_rows, damping))
    return ready.labelled(
        scores,
        model,
        options,
        technique=datainf,
        name="datainf",
        metric=metric,
        damping=damping,
    )
