"""Baselines that take no gradient: shared words, and likeness of representations (PRIMER 3.1.27).

    BM25    sum over the query's tokens w of  idf(w) f (k1 + 1) / (f + k1 (1 - b + b |z| / mean |z|))
            idf(w) = log(1 + (n - n_w + 1/2) / (n_w + 1/2)),   f: how often z has w

Both are hard to beat as finders of a fact's source, and say nothing of causes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.jobs.progress import progress_bar
from caseback.localize.inputs.training.examples import batches, queries_of
from caseback.localize.inputs.training.objectives import in_turn
from caseback.localize.inputs.training.rows import read_corpus
from caseback.localize.inputs.training.scores import example_scores
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.tokens import Tokens

POOLS, LIKENESSES = ("mean", "last"), ("cosine", "dot", "euclidean")


@technique(
    role="training-data attribution",
    entry=("3.1.27",),
    citation="Robertson et al. 1995, Akyürek et al. 2022",
    cost="no pass of the model",
)
def bm25(
    model: Model, queries: Any, corpus: Any, *, k1: float = 1.2, b: float = 0.75, max_length: int | None = None
) -> xr.DataArray:
    """How many of a query's tokens each example shares, rare ones counting more.

    Parameters
    ----------
    model
        The model. Only its tokenizer is used, whose special tokens do not count as words.
    queries, corpus, max_length
        As for ``influence_functions``. Of a pair (prompt, completion) both count.
    k1
        How soon a repeated token stops to count; 1.2 as in Lucene.
    b
        How much a long example is held against it, 0 to 1; 0.75 as in Lucene.

    Returns
    -------
    xr.DataArray
        (query, example), 0 where nothing is shared.

    Raises
    ------
    OutOfRange
        For a ``k1`` below 0 or a ``b`` outside 0 to 1.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = bm25(model, "the cat", ["the cat sat", "Mary went home"])
    >>> bool(scores[0, 0] > 0), float(scores[0, 1])
    (True, 0.0)
    """
    if k1 < 0 or not 0 <= b <= 1:
        raise OutOfRange(f"k1 is {k1}, b is {b}: expected k1 of at least 0 and b from 0 to 1")
    asked = queries_of(model, queries)
    examples, corpus_counts = read_corpus(model, corpus, max_length)
    special = set() if model.tokenizer is None else set(model.tokenizer.all_special_ids)
    counts = [Counter(token for token in e.ids if token not in special) for e in examples]
    holders: dict[int, list[tuple[int, int]]] = {}
    for number, count in enumerate(counts):
        for token, times in count.items():
            holders.setdefault(token, []).append((number, times))
    lengths = np.array([max(1, c.total()) for c in counts], dtype=float)
    scores = np.zeros((len(asked), len(examples)))
    for row, query in enumerate(asked):
        for token, repeated in Counter(query.ids).items():
            if token in holders:
                at, times = np.array(holders[token]).T
                idf = np.log(1 + (len(examples) - len(at) + 0.5) / (len(at) + 0.5))
                norm = k1 * (1 - b + b * lengths[at] / lengths.mean())
                scores[row, at] += repeated * idf * times * (k1 + 1) / (times + norm)
    return example_scores(
        torch.from_numpy(scores), model, asked, examples, corpus_counts, technique=bm25, name="bm25", k1=k1, b=b
    )


@technique(
    role="training-data attribution", entry=("3.1.27",), citation="Hanawa et al. 2021", cost="one forward per example"
)
def representation_similarity(
    model: Model,
    queries: Any,
    corpus: Any,
    *,
    layer: int = -1,
    pool: str = "mean",
    likeness: str = "cosine",
    max_length: int | None = None,
    token_budget: int | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """How alike the model's representations of queries and examples are.

    Parameters
    ----------
    model, queries, corpus, max_length, token_budget, progress
        As for ``influence_functions``.
    layer
        After which layer the stream is read; the last by default.
    pool
        The ``"mean"`` over a text's tokens, or the ``"last"`` one's.
    likeness
        ``"cosine"``, ``"dot"`` or ``"euclidean"`` (minus the distance).

    Returns
    -------
    xr.DataArray
        (query, example).

    Raises
    ------
    CasebackError
        For an unknown pool or likeness.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = representation_similarity(model, "the cat sat", ["the cat sat", "Mary went home"])
    >>> round(float(scores[0, 0]), 4)
    1.0
    """
    for value, choices, what in ((pool, POOLS, "pool"), (likeness, LIKENESSES, "likeness")):
        if value not in choices:
            raise CasebackError(f"{what} {value!r} is unknown. {did_you_mean(value, choices)}")
    layer = model.anatomy.layer(layer)
    asked = queries_of(model, queries)
    examples, corpus_counts = read_corpus(model, corpus, max_length)
    q = torch.cat([_pooled(model, batch.tokens, layer, pool) for batch in in_turn(model, asked, token_budget)])
    z = q.new_zeros(len(examples), q.shape[1])
    with progress_bar(total=len(examples), show=progress, what="representations", unit="example") as bar:
        for batch in batches(examples, model.device, token_budget=token_budget):
            z[batch.numbers] = _pooled(model, batch.tokens, layer, pool)
            bar.update(len(batch.numbers))
    return example_scores(
        _likeness(q, z, likeness),
        model,
        asked,
        examples,
        corpus_counts,
        technique=representation_similarity,
        name=f"representation_{likeness}",
        layer=layer,
        pool=pool,
        likeness=likeness,
    )


def _pooled(model: Model, tokens: Tokens, layer: int, pool: str) -> Float[Tensor, "batch d_model"]:
    run = execute(model.anatomy, tokens, read=[("resid_post", layer)], logits=False)
    stream = at_least_float32(run["resid_post", layer])
    if pool == "last":
        return stream[torch.arange(len(tokens), device=stream.device), tokens.column(-1)]
    return torch.where(tokens.mask[..., None], stream, 0.0).sum(1) / tokens.lengths[:, None]


def _likeness(q: Tensor, z: Tensor, likeness: str) -> Float[Tensor, "query example"]:
    if likeness == "euclidean":
        # by differences: by products, of states this large, what is nearest would be lost in |q|^2 + |z|^2 - 2 <q, z>
        return -torch.cdist(q, z, compute_mode="donot_use_mm_for_euclid_dist")
    if likeness == "cosine":
        q, z = (torch.nn.functional.normalize(x, dim=1) for x in (q, z))
    return q @ z.T
