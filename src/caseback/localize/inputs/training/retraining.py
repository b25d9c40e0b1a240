"""How well scores predict retraining: the linear datamodeling score (PRIMER 3.1.25).

    LDS(q) = Spearman over subsets S of ( sum_{z in S} tau(z, q),  f(q; trained on S) )

Subsets are random halves of the training examples. 1 where the sums order the retrained models as they are, 0 where
they know nothing. Retraining is noisy, so that even the truth's own expectation stays below 1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.checkpoint import Checkpoint
from caseback.jobs.job import Job
from caseback.jobs.launch import HERE, expect_here, results
from caseback.jobs.progress import progress_bar
from caseback.jobs.working import threads_of
from caseback.localize.inputs.training.retraining_job import KIND, Retraining
from caseback.model.arguments import checked
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model


@checked
def random_subsets(
    n_examples: int, n_subsets: int, *, share: float = 0.5, seed: int = 0
) -> Bool[np.ndarray, "variant example"]:
    """Draw subsets of a corpus, all of the same size.

    Parameters
    ----------
    n_examples, n_subsets
        How many examples there are, and how many subsets to draw.
    share
        Which share of the examples a subset has.
    seed
        Same seed, same result. The subsets are drawn with it.

    Raises
    ------
    OutOfRange
        For a share that leaves no example in or none out.

    Examples
    --------
    >>> random_subsets(10, 3).sum(1).tolist()
    [5, 5, 5]
    """
    if n_subsets < 1:
        raise OutOfRange(f"{n_subsets} subsets: expected 1 or more")
    size = round(share * n_examples)
    if not 0 < size < n_examples:
        raise OutOfRange(f"a share of {share} of {n_examples} examples is {size}: expected some, but not all")
    draw = np.random.default_rng(seed)
    subsets = np.zeros((n_subsets, n_examples), dtype=bool)
    for row in subsets:
        row[draw.permutation(n_examples)[:size]] = True
    return subsets


@checked
def retrained_outcomes(
    train: Callable[[list[int]], Model],
    subsets: Bool[np.ndarray, "variant example"],
    queries: Any,
    metric: Metric | None = None,
    *,
    checkpoint: str | Path | None = None,
    folder: str | Path | None = None,
    workers: int = 1,
    on: str = HERE,
    threads: int | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """Train on each subset and measure the queries.

    Parameters
    ----------
    train
        From the numbers of a subset's examples to a model trained on them.
    subsets
        Such as ``random_subsets`` draws.
    queries, metric
        As for ``influence_functions``: by default the queries' log-likelihood is measured.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.
    folder
        In place of a checkpoint a folder, in which several workers train on a subset each. The same call goes on
        after an interruption, and joins from another process or machine that sees the folder. Each training there
        starts from random states of its own, the same in any process.
    workers, on, threads
        Where it runs, and the threads of each worker; see ``caseback.jobs.launch``. Other processes are sent
        ``train``: a function of a module, a ``functools.partial`` of one, or an object that can be pickled.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (variant, query), a variant being a subset.

    Raises
    ------
    LoadError
        For a checkpoint or a folder of other subsets, queries, metric or training, or a damaged one. Of ``train`` the
        code is compared, and what a ``functools.partial`` or a dataclass holds; not what a function holds.
    CasebackError
        For workers without a folder, and a ``train`` that cannot be sent to them.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> outcomes = retrained_outcomes(lambda subset: model, random_subsets(6, 2), ["the cat sat"])
    >>> outcomes.dims, bool(outcomes[0, 0] == outcomes[1, 0])
    (('variant', 'query'), True)
    """
    if np.ndim(subsets) != 2:
        raise CasebackError(f"subsets of shape {np.shape(subsets)}: expected (subset, example)")
    if folder is not None and checkpoint is not None:
        raise CasebackError(f"both {checkpoint=!s} and {folder=!s}: outcomes are kept in one of them")
    work = Retraining(train, subsets, queries, metric)
    if folder is not None:
        n_threads = threads_of(folder, threads, workers)
        job = Job.begin(folder, work.plan(n_threads), "the retraining")
        shards = results(job, work, workers=workers, on=on, progress=progress)
        return _labelled([shard["outcomes"].numpy() for shard in shards], metric)
    expect_here(workers, on)
    file = Checkpoint(
        checkpoint,
        work.content(),
        what="checkpoint of retraining",
        other="belongs to other subsets, queries, metric or training",
    )
    saved = file.read()
    done = [] if saved is None else list(saved.tensors["outcomes"].numpy())
    for variant in progress_bar(range(len(done), len(subsets)), show=progress, what=KIND, unit="model"):
        done.append(work.outcomes(variant))
        file.write({"outcomes": np.array(done)})
    return _labelled(done, metric)


def _labelled(outcomes: list[np.ndarray], metric: Metric | None) -> xr.DataArray:
    name = None if metric is None else metric.name
    return labelled(np.array(outcomes), ["variant", "query"], name="outcome", metric=name)


def _places(chosen: Float[np.ndarray, "variant example"], tau: np.ndarray) -> Int[np.ndarray, "variant query"]:
    """Where each subset's sum stands among those of its query; sums that differ by rounding alone stand together.

    A sum of n numbers is off by n eps sum |tau| at most, so the same holds at any scale of the scores.
    """
    tau = tau.astype(float)
    largest = np.abs(tau).max(1, keepdims=True)
    unit = tau / np.where(largest > 0, largest, 1)  # so that no sum is too large or too small
    sums = chosen @ unit.T
    order = np.argsort(sums, axis=0)
    gaps = np.diff(np.take_along_axis(sums, order, 0), axis=0)
    apart = gaps > tau.shape[1] * np.finfo(float).eps * np.abs(unit).sum(1)
    places = np.concatenate([np.zeros_like(apart[:1], int), np.cumsum(apart, 0)])
    return np.take_along_axis(places, np.argsort(order, axis=0), 0)


@technique(
    role="judgement", entry=("3.1.25",), citation="Ilyas et al. 2022, Park et al. 2023", cost="one training per subset"
)
def linear_datamodeling_score(
    scores: xr.DataArray | Float[np.ndarray, "query example"],
    subsets: Bool[np.ndarray, "variant example"],
    outcomes: xr.DataArray | Float[np.ndarray, "variant query"],
) -> xr.DataArray:
    """How well the sum of a subset's scores predicts what a model trained on that subset makes of a query.

    Parameters
    ----------
    scores
        (query, example), as the methods of this folder give them.
    subsets
        Which examples each retrained model saw.
    outcomes
        (variant, query), what it made of the queries; see ``retrained_outcomes``.

    Returns
    -------
    xr.DataArray
        (query), Spearman's rank correlation, the same at any scale of the scores; NaN where all sums or all outcomes
        are equal. Attributes ``mean`` and ``standard_error`` over queries.

    Raises
    ------
    CasebackError
        Where shapes do not fit, or there are fewer than 3 subsets.

    Examples
    --------
    >>> subsets = random_subsets(8, 6)
    >>> scores = np.arange(16.0).reshape(2, 8)
    >>> linear_datamodeling_score(scores, subsets, subsets @ scores.T).values.tolist()
    [1.0, 1.0]
    """
    tau, chosen, seen = np.asarray(scores), np.asarray(subsets, dtype=float), np.asarray(outcomes)
    n_query, n_example = tau.shape
    if chosen.shape != (len(seen), n_example) or seen.shape[1:] != (n_query,):
        raise CasebackError(
            f"scores {tau.shape}, subsets {chosen.shape} and outcomes {seen.shape} do not fit: expected "
            "(query, example), (subset, example) and (subset, query)"
        )
    if len(seen) < 3:
        raise CasebackError(f"{len(seen)} subsets: a rank correlation needs at least 3")
    both = [rankdata(x, axis=0) - (len(seen) + 1) / 2 for x in (_places(chosen, tau), seen)]
    sizes = np.sqrt((both[0] ** 2).sum(0) * (both[1] ** 2).sum(0))
    with np.errstate(invalid="ignore"):
        correlation = np.where(sizes > 0, (both[0] * both[1]).sum(0) / sizes, np.nan)
    known = correlation[~np.isnan(correlation)]
    return labelled(
        correlation,
        ["query"],
        name="lds",
        technique=linear_datamodeling_score,
        subsets=len(seen),
        mean=float(known.mean()) if len(known) else None,
        standard_error=float(known.std(ddof=1) / len(known) ** 0.5) if len(known) > 1 else None,
        scored=str(scores.name) if isinstance(scores, xr.DataArray) else None,
    )
