"""Dependency trees as numbers, many sentences of one length at once.

    A_ij = 1 where j is i or above it,  A = (1 - parent)^-1;      depth_i = sum_j A_ij - 1
    distance_ij = |A_i - A_j|^2, the number of edges between i and j

Rows of A are an isometric embedding: squared Euclidean distances between them are the tree's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from torch import Tensor

from caseback.decode.probes.splits import listed_values
from caseback.errors import CasebackError

LENGTHS = range(5, 51)  # of sentences that rank correlations are averaged over (Hewitt & Manning 2019)


def checked_heads(y: Sequence[Sequence[int]] | Tensor | np.ndarray) -> list[np.ndarray]:
    """Heads of each sentence's words, counted from 0 within it, -1 for the root.

    Raises
    ------
    CasebackError
        Where they form no tree.
    """
    y = listed_values(y, "heads") if isinstance(y, Tensor | np.ndarray) else y
    if isinstance(y, str | bytes) or not isinstance(y, Sequence) or not len(y):
        raise CasebackError(f"heads are a {type(y).__name__}: expected one list of heads for each sentence")
    return [_one_tree(heads, number) for number, heads in enumerate(y)]


def _one_tree(given: Sequence[int], number: int) -> np.ndarray:
    try:
        raw = np.asarray(given)
        heads: np.ndarray = raw.astype(np.int64)
        whole = raw.ndim == 1 and len(heads) > 0 and raw.dtype.kind in "iuf" and np.array_equal(heads, raw)
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise CasebackError(f"sentence {number} has heads {str(given)[:60]}: expected a whole number for each word")
    n = len(heads)
    if heads.min() < -1 or heads.max() >= n or np.count_nonzero(heads == -1) != 1:
        raise CasebackError(f"sentence {number} has heads {heads.tolist()}: expected one -1, others from 0 to {n - 1}")
    up = np.where(heads < 0, np.arange(n), heads)
    for _ in range(n.bit_length()):  # each time twice as far
        up = up[up]
    if (heads[up] != -1).any():
        raise CasebackError(f"sentence {number} has heads {heads.tolist()}: expected a tree, they go round in a circle")
    return heads


def ancestors(heads: Int[np.ndarray, "sentence word"]) -> Float[np.ndarray, "sentence word word"]:
    """Which words are a word or above it.

    Examples
    --------
    >>> ancestors(np.array([[1, -1, 1]]))[0].astype(int).tolist()
    [[1, 1, 0], [0, 1, 0], [0, 1, 1]]
    """
    n = heads.shape[1]
    parent = (heads[..., None] == np.arange(n)).astype(float)
    return np.linalg.inv(np.eye(n) - parent).round()


def tree_distances(heads: Int[np.ndarray, "sentence word"]) -> Float[np.ndarray, "sentence word word"]:
    """The number of edges between each two words.

    Examples
    --------
    >>> tree_distances(np.array([[1, -1, 1]]))[0].astype(int).tolist()
    [[0, 1, 2], [1, 0, 1], [2, 1, 0]]
    """
    above = ancestors(heads)
    own = above.sum(-1)
    return own[..., None] + own[:, None] - 2 * above @ above.transpose(0, 2, 1)


def tree_depths(heads: Int[np.ndarray, "sentence word"]) -> Float[np.ndarray, "sentence word"]:
    """The number of edges between each word and the root."""
    return ancestors(heads).sum(-1) - 1


def edges_of(heads: Int[np.ndarray, "sentence word"]) -> Bool[np.ndarray, "sentence word word"]:
    """Which words are joined, either way."""
    down = heads[..., None] == np.arange(heads.shape[1])
    return down | down.transpose(0, 2, 1)


def spanning_trees(
    distances: Float[Tensor, "*batch word word"], mask: Bool[Tensor, "*batch word"]
) -> Bool[Tensor, "*batch word word"]:
    """The edges, either way, of minimum spanning trees over the words of a mask: Prim's, all trees at once.

    scipy's takes a distance of 0 for no edge, and a matrix at a time.
    """
    shape = distances.shape
    n = shape[-1]
    d = distances.reshape(-1, n, n)
    free = mask.expand(shape[:-1]).reshape(-1, n).clone()
    row = torch.arange(len(d), device=d.device)
    first = free.long().argmax(-1)
    count = free.sum(-1)
    free[row, first] = False
    nearest, via = d[row, first].clone(), first[:, None].expand(-1, n).clone()
    edges = torch.zeros_like(d, dtype=torch.bool)
    for joined in range(1, n):
        new = nearest.masked_fill(~free, torch.inf).argmin(-1)
        going = joined < count
        one, other = row[going], new[going]
        edges[one, other, via[one, other]] = True
        free[one, other] = False
        closer = d[row, new] < nearest
        nearest, via = torch.where(closer, d[row, new], nearest), torch.where(closer, new[:, None], via)
    return (edges | edges.mT).reshape(shape)


def rank_correlation(
    one: Float[np.ndarray, "*batch word"], other: Float[np.ndarray, "*batch word"]
) -> Float[np.ndarray, "*batch"]:
    """Spearman's correlation along the last axis, ties sharing their mean rank; 0 where one side is constant."""
    a, b = (rankdata(values, axis=-1) for values in (one, other))
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    size = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return (a * b).sum(-1) / np.where(size > 0, size, 1)
