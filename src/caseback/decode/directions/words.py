"""The linear representation hypothesis in the vocabulary's two spaces (Park et al. 2024).

    embedding notion       lambda = mean over pairs of  W_E[b] - W_E[a]           what a context must have added
    unembedding notion     gamma  = mean over pairs of  W_U[:, b] - W_U[:, a]     what a prediction is raised by
    causal inner product   <u, v> = u^T Cov(gamma)^-1 v                           separable concepts are orthogonal

The third notion, by intervention, is a direction at a site: ``find_directions``. Under the causal inner product the
first two are one vector: lambda = Cov(gamma)^-1 gamma.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.model.anatomy.coerce import are_several, in_float64
from caseback.model.arguments import checked
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.tokens import one_token, piece

Notion = Literal["embedding", "unembedding"]


@technique(
    entry=("4.2.1",),
    citation="Mikolov et al. 2013; Park et al. 2024",
    cost="a covariance of the unembedding with inner='causal'; no model is run",
)
def word_direction(
    model: Model,
    pairs: Sequence[Any],
    *,
    notion: Notion = "unembedding",
    inner: Literal["euclidean", "causal"] = "euclidean",
    resamples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """The direction that leads from the first word of each pair to the second, and whether the pairs agree on one.

    Parameters
    ----------
    model
        The model.
    pairs
        Pairs of words, each one token: ``[("king", "queen"), ...]``; texts with their leading space, or ids.
    notion
        ``"embedding"`` or ``"unembedding"``: of W_E's rows or W_U's columns.
    inner
        In which inner product cosines are: ``"causal"`` divides by the covariance of W_U's columns (for the embedding
        notion it multiplies, its dual).
    resamples
        Of the words, into pairs by chance.
    seed
        Same seed, same result.

    Returns
    -------
    xr.Dataset
        ``direction`` (d_model,), the mean difference; ``agreement`` (example,), the cosine of each pair's difference
        with the mean of the others'; ``mean_agreement``, and ``by_chance``, its middle 95 % (low, high) over pairs
        whose second words are dealt anew.

    Raises
    ------
    CasebackError
        For fewer than two pairs.
    TargetError
        For a word that is not one token.

    Notes
    -----
    Entry 4.2.1. Park et al. 2024 call it the concept's representation; directions of W_U read a state that the final
    norm has been through.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> found = word_direction(model, [(" he", " she"), (" his", " her"), (" him", " her")])
    >>> found.direction.dims, bool(found.mean_agreement > 0)
    (('d_model',), True)
    """
    if resamples < 1:
        raise OutOfRange(f"resamples {resamples}: expected at least 1")
    ids = _pair_ids(model, pairs)
    rows = _space(model, notion)
    metric = None if inner == "euclidean" else causal_inner_product(model)
    metric = torch.linalg.inv(metric) if metric is not None and notion == "embedding" else metric
    first, second = rows[ids[:, 0]], rows[ids[:, 1]]
    agreement = _agreement(second - first, metric)
    random = np.random.default_rng(seed)
    dealt = torch.from_numpy(np.stack([random.permutation(len(ids)) for _ in range(resamples)]))
    chance = _agreement(second[dealt] - first, metric).mean(-1)
    low, high = np.quantile(chance.cpu().numpy(), [0.025, 0.975])
    words = [" > ".join(piece(model.tokenizer, int(i)).strip() for i in pair) for pair in ids]
    result = labelled(
        (second - first).mean(0),
        ["d_model"],
        name="direction",
        technique=word_direction,
        model=model,
        notion=notion,
        inner=inner,
        seed=seed,
    ).to_dataset(promote_attrs=True)
    result["agreement"] = ("example", agreement.cpu().numpy())
    result = result.assign_coords(pair=("example", words))
    result["mean_agreement"] = float(agreement.mean())
    result["by_chance"] = ("bin", [low, high])
    return result


@checked
def causal_inner_product(model: Model) -> Float[Tensor, "d_model other"]:
    """Cov(gamma)^-1, gamma the unembedding's columns over the vocabulary: u^T M v is the causal inner product.

    Parameters
    ----------
    model
        The model.

    Raises
    ------
    CasebackError
        Where the columns do not span the stream, so that there is no inverse.

    Examples
    --------
    >>> import caseback as cb
    >>> metric = causal_inner_product(cb.load("meadow"))
    >>> torch.linalg.eigvalsh(metric).min() > 0
    tensor(True)
    """
    columns = in_float64(model.weights.W_U.detach())
    covariance = columns.cov(correction=0)
    values, vectors = torch.linalg.eigh(covariance)
    if float(values[0]) <= float(values[-1]) * len(values) * torch.finfo(values.dtype).eps:
        raise CasebackError(
            f"the unembedding's {columns.shape[1]} columns do not span {len(values)} dimensions: its covariance has no "
            "inverse"
        )
    return (vectors / values) @ vectors.T


@technique(
    entry=("4.2.1",),
    citation="Mikolov et al. 2013",
    cost="a product with the whole vocabulary; no model is run",
)
def analogy(
    model: Model,
    words: Sequence[Any],
    *,
    notion: Notion = "embedding",
    top: int = 10,
) -> xr.DataArray:
    """What is to the third word as the second is to the first: the tokens nearest to b - a + c.

    Parameters
    ----------
    model
        The model.
    words
        Three words a, b, c, each one token.
    notion
        In which space, ``"embedding"`` or ``"unembedding"``.
    top
        How many tokens; the three words themselves are left out, as is usual.

    Returns
    -------
    xr.DataArray
        (rank,), the cosine of each token, with the coordinate ``token``.

    Raises
    ------
    TargetError
        For a word that is not one token.

    Examples
    --------
    >>> import caseback as cb
    >>> analogy(cb.load("meadow"), [" he", " his", " she"], top=3).dims
    ('rank',)
    """
    if len(words) != 3:
        raise CasebackError(f"{len(words)} words: expected three, a, b and c")
    if top < 1:
        raise OutOfRange(f"top {top}: expected at least 1")
    a, b, c = (one_token(model.tokenizer, word, model.d_vocab, "word") for word in words)
    rows = _space(model, notion)
    wanted = rows[b] - rows[a] + rows[c]
    cosines = torch.nn.functional.normalize(rows, dim=1) @ torch.nn.functional.normalize(wanted, dim=0)
    cosines[[a, b, c]] = -torch.inf
    values, ids = cosines.topk(min(top, len(rows) - 3))
    tokens = [piece(model.tokenizer, int(i)) for i in ids]
    return labelled(
        values,
        ["rank"],
        {"token": ("rank", tokens)},
        name="cosine",
        technique=analogy,
        model=model,
        notion=notion,
        words=[str(word) for word in words],
    )


def _space(model: Model, notion: Notion) -> Float[Tensor, "vocab d_model"]:
    matrix = model.weights.W_E if notion == "embedding" else model.weights.W_U.T
    return in_float64(matrix.detach())


def _pair_ids(model: Model, pairs: Sequence[Any]) -> Tensor:
    ids = []
    for number, pair in enumerate(pairs):
        if not are_several(pair) or len(pair) != 2:
            raise CasebackError(f"pair {number} is {pair!r}: expected two words")
        ids.append([one_token(model.tokenizer, word, model.d_vocab, "word") for word in pair])
    if len(ids) < 2:
        raise CasebackError(f"{len(ids)} pairs: expected two or more, to see whether they agree")
    return torch.tensor(ids)


def _agreement(differences: Float[Tensor, "*draw pair d"], metric: Tensor | None) -> Float[Tensor, "*draw pair"]:
    """The cosine of each difference with the mean of the others."""
    n = differences.shape[-2]
    rest = (differences.sum(-2, keepdim=True) - differences) / (n - 1)
    through = differences if metric is None else differences @ metric
    along = rest if metric is None else rest @ metric
    lengths = ((through * differences).sum(-1) * (along * rest).sum(-1)).sqrt()
    return (through * rest).sum(-1) / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
