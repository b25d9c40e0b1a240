"""Scores of training examples for queries: labeled, and the strongest of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.localize.inputs.training.examples import CorpusCounts, Example, text_of
from caseback.model.arguments import checked
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model

ENDS = ("highest", "lowest", "strongest")


def example_scores(
    scores: Float[Tensor, "query example"],
    model: Model,
    queries: Sequence[Example],
    examples: Sequence[Example],
    corpus_counts: CorpusCounts,
    *,
    technique: Callable[..., Any],
    name: str,
    metric: Metric | None = None,
    **attrs: Any,
) -> xr.DataArray:
    """Label scores with the queries and the examples."""
    return labelled(
        scores,
        ["query", "example"],
        {
            "query_text": ("query", [_shown(model, q) for q in queries]),
            "text": ("example", [text_of(model, e) for e in examples]),
            "line": ("example", [e.line for e in examples]),
            "piece": ("example", [e.piece for e in examples]),
        },
        name=name,
        technique=technique,
        model=model,
        explained="log_likelihood of the query" if metric is None else metric.name,
        target=None if metric is None or metric.target is None else str(metric.target),
        foil=None if metric is None or metric.foil is None else str(metric.foil),
        split_lines=corpus_counts.split,
        split_into=corpus_counts.pieces,
        lines_left_out=corpus_counts.skipped,
        **attrs,
    )


def _shown(model: Model, query: Example) -> str:
    """A query's text, with a bar before the completion where only that counts."""
    if query.first == 1:
        return text_of(model, query)
    parts = query.ids[: query.first], query.ids[query.first :]
    return " |".join(text_of(model, Example(ids, query.line)) for ids in parts)


@checked
def top_examples(scores: xr.DataArray, k: int = 10, *, end: str = "highest") -> xr.Dataset:
    """The examples with the strongest scores of each query.

    Parameters
    ----------
    scores
        (query, example), as the functions of this folder give them.
    k
        How many; all where there are fewer.
    end
        ``"highest"`` (what raised the query most, proponents), ``"lowest"`` (opponents), or ``"strongest"`` by size.

    Returns
    -------
    xr.Dataset
        (query, rank): the ``score``, the ``example``'s number, its ``line`` and ``piece`` in the corpus, its ``text``.

    Raises
    ------
    CasebackError
        For another array, or an unknown end.
    OutOfRange
        For a k below 1.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> corpus = ["Mary went to the store.", "The dog sat on the mat.", "The cat sat on the mat."]
    >>> top_examples(cb.localize.inputs.bm25(model, "the cat", corpus), 1).text.item()
    'The cat sat on the mat.'
    """
    if scores.dims != ("query", "example"):
        raise CasebackError(f"scores have the dimensions {scores.dims}: expected ('query', 'example')")
    if end not in ENDS:
        raise CasebackError(f"end {end!r} is unknown. {did_you_mean(end, ENDS)}")
    if k < 1:
        raise OutOfRange(f"k is {k}: expected at least 1")
    values = scores.values
    key = {"highest": -values, "lowest": values, "strongest": -np.abs(values)}[end]
    at = np.argsort(key, axis=1, kind="stable")[:, :k]
    beside = {name: (("query", "rank"), scores[name].values[at]) for name in ("line", "piece", "text")}
    return xr.Dataset(
        {"score": (("query", "rank"), np.take_along_axis(values, at, 1)), "example": (("query", "rank"), at), **beside},
        coords={"query_text": scores.query_text, "rank": np.arange(1, at.shape[1] + 1)},
        attrs=dict(scores.attrs),
    )
