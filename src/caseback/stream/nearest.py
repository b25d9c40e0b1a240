"""Which contexts are nearest to a vector: an exact search over all stored activations of a site.

    score(i) = <x_i, v> / (|x_i| |v|)  (cosine),    <x_i, v>  (dot),    -|x_i - v|  (euclidean)

The k best of every vector are kept while the store is gone through once; equal ones by their place in the corpus. What
they have in common is counted beside: how often a token stands at, before or after them, and how often anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.arguments import checked
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.stream.store import Store
from caseback.stream.tables.ordered_keys import NO_KEY, index_of, keys_of, values_of

Measure = Literal["cosine", "dot", "euclidean"]


@checked
def nearest(
    store: Store,
    vectors: Float[Tensor, "*query width"],
    *,
    top: int = 20,
    measure: Measure = "cosine",
    skip: int = 0,
    model: Model | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """Find the tokens of a corpus whose stored activations are nearest to vectors.

    Parameters
    ----------
    store
        Stored activations, as ``collection.store(site)`` gives them; heads lie side by side.
    vectors
        One or several, as wide as the site.
    top
        How many tokens for each.
    measure
        What near means.
    skip
        First positions of each row that do not count: first tokens are often near to nothing but each other.
    model
        The model, for tokens as text; another than the store's is refused.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (query, rank) scores, the nearest first; beside them ``place`` in the corpus, ``row``, ``pos``, ``id`` and, with
        a model, ``token``.

    Raises
    ------
    OutOfRange
        For vectors of another width, or fewer than one token to find.
    LoadError
        For a store of another model, or a damaged one.

    Examples
    --------
    >>> import tempfile
    >>> import caseback as cb
    >>> from caseback.stream import collect
    >>> model = cb.load("meadow")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     corpus = ["Mary went to the store.", "John went to the park."]
    ...     store = collect(model, corpus, activations=["resid_post.0"], folder=folder).store("resid_post.0")
    ...     near = nearest(store, store.at([4])[0], top=2, model=model)
    >>> near.sizes["rank"], int(near.place[0, 0]), round(float(near[0, 0]), 3)
    (2, 4, 1.0)
    """
    if model is not None:
        store.expect_model(model)
    wanted = torch.as_tensor(vectors).float()
    wanted = wanted[None] if wanted.ndim == 1 else wanted
    width = store.width
    if wanted.ndim != 2 or wanted.shape[1] != width:
        raise OutOfRange(
            f"vectors of shape {tuple(wanted.shape)}: expected (queries, {width}), as wide as {store.site}"
        )
    if top < 1 or skip < 0:
        raise OutOfRange(f"top {top}, skip {skip}: expected at least 1 and 0")
    best = torch.full((len(wanted), top), NO_KEY, dtype=torch.int64)
    tokens = max(1, limit("nearest_numbers") // (width + len(wanted)))
    bar = progress_bar(show=progress, what="tokens", total=store.n_tokens, unit="token", unit_scale=True)
    for first, x in store.blocks(tokens):
        scores = _scores(x.flatten(1).float(), wanted, measure)
        keys = keys_of(scores, torch.arange(first, first + len(x)))
        if skip:
            keys = keys[:, store.block_of("pos", first, len(x)) >= skip]
        best = torch.cat([best, keys], 1).topk(min(top, best.shape[1] + keys.shape[1])).values[:, :top]
        bar.update(len(x))
    bar.close()
    return _labelled(store, best[:, (best != NO_KEY).all(0)], measure, model)


def _scores(x: Tensor, wanted: Tensor, measure: str) -> Tensor:
    if measure == "euclidean":
        # by differences: by products, of vectors this large, what is nearest would be lost in |x|^2 + |v|^2 - 2 <x, v>
        return -torch.cdist(wanted, x, compute_mode="donot_use_mm_for_euclid_dist")
    scores = wanted @ x.T
    if measure == "dot":
        return scores
    norms = torch.linalg.vector_norm(x, dim=1) * torch.linalg.vector_norm(wanted, dim=1)[:, None]
    return scores / norms.clamp_min(torch.finfo(x.dtype).tiny)


def _labelled(store: Store, best: Tensor, measure: str, model: Model | None) -> xr.DataArray:
    place = index_of(best)
    at = {name: store.at(place.flatten(), name=name).view_as(place) for name in ("row", "pos", "ids")}
    dims = ("query", "rank")
    coords: dict[str, Any] = {name: (dims, at[name]) for name in ("row", "pos")}
    coords |= {"place": (dims, place), "id": (dims, at["ids"])}
    if model is not None:
        coords["token"] = (dims, [[model.token_text(token) for token in row] for row in at["ids"].tolist()])
    return labelled(
        values_of(best), dims, coords, name="score", model=model, measure=measure, site=str(store.site), entry="4.3.14"
    )


@dataclass(frozen=True)
class Common:
    """A token that stands beside the neighbors more often than anywhere.

    Attributes
    ----------
    where
        ``"at"``, ``"before"`` or ``"after"``.
    token
        Its id.
    share, base
        How often it stands there among the neighbors, and in the whole corpus.
    """

    where: str
    token: int
    share: float
    base: float


@checked
def in_common(store: Store, neighbors: xr.DataArray, *, most: int = 5) -> list[list[Common]]:
    """What the contexts that ``nearest`` gave have in common, for each vector.

    Parameters
    ----------
    store
        The same store.
    neighbors
        What ``nearest`` gave.
    most
        How many tokens, the most over-represented first (share minus base).
    """
    ids = [store.shard(number, name="ids").long() for number in range(store.n_shards)]
    counts = torch.bincount(torch.cat(ids)).double()
    base = counts / counts.sum()
    result = []
    for query in range(neighbors.sizes["query"]):
        common: list[Common] = []
        rows, places = neighbors.row.values[query].tolist(), neighbors.pos.values[query].tolist()
        for where, step in (("at", 0), ("before", -1), ("after", 1)):
            beside = [_token(store, row, pos + step) for row, pos in zip(rows, places, strict=True)]
            present = torch.tensor([token for token in beside if token is not None], dtype=torch.long)
            for token, count in zip(*(x.tolist() for x in present.unique(return_counts=True)), strict=True):
                if count > 1:
                    common.append(Common(where, token, count / len(beside), float(base[token])))
        result.append(sorted(common, key=lambda one: one.base - one.share)[:most])
    return result


def context(store: Store, row: int, pos: int, *, around: int = 8) -> tuple[Sequence[int], Sequence[int]]:
    """The token ids before a place of a row, it included, and after it."""
    ids = store.row(row)
    return ids[max(0, pos - around) : pos + 1], ids[pos + 1 : pos + 1 + around]


def _token(store: Store, row: int, pos: int) -> int | None:
    ids = store.row(row)
    return ids[pos] if 0 <= pos < len(ids) else None
