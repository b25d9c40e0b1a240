"""The singular vectors of a weight as words (PRIMER 4.3.10).

    W = U S V^T        z W = sum_i (z . u_i) s_i v_i

Direction i of the input is read as u_i, scaled by s_i and written as v_i; both may be directions of the stream, and
then are words. (u_i, v_i) and (-u_i, -v_i) are the same: the largest tokens of one side go with the largest of the
other, and the smallest with the smallest. The sign is that which gives v_i (or u_i, where only that is in the stream)
the longer tail of large values. A side that is not a direction of the stream is described by its largest neurons.

ov and qk are decomposed through their factors, d_head wide, and never formed.
"""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.vocabulary.lenses.lens_statistics import expect_sizes
from caseback.decode.vocabulary.weights.named_matrices import Kind, kind_of, matrix_of, table_of, weights_of
from caseback.decode.vocabulary.weights.weight_words import as_words, ends
from caseback.errors import OutOfRange
from caseback.jobs.budget import limit
from caseback.model.algebra.factored import Factored
from caseback.model.algebra.under_edits import expect_in_weights
from caseback.model.algebra.weights import Weights
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model


@technique(
    role="weights in words",
    entry=("4.3.10",),
    citation="Millidge and Black 2022",
    cost="one SVD + vectors x unembedding",
)
def weight_svd_words(
    model: Model,
    matrix: str,
    layer: int,
    *,
    head: int | None = None,
    expert: int | None = None,
    top: int = 10,
    k: int = 10,
    folded: bool = True,
    max_logits: int | None = None,
) -> xr.Dataset:
    """Decompose a weight and read its singular vectors as tokens, on each side that is in the stream.

    Parameters
    ----------
    model
        The model.
    matrix
        ``"in"``, ``"gate"``, ``"out"``, or one head's ``"q"``, ``"k"``, ``"v"``, ``"o"``, ``"ov"``, ``"qk"``.
    layer, head, expert
        Whose.
    top
        How many singular vectors are read, largest first; at most as many as there are.
    k
        How many tokens, or neurons, are kept at each end; at most as many as either side has.
    folded
        Fold the norms beside the weight and the final norm in. The decomposition is of the folded weight then.
    max_logits
        The most products formed at once.

    Returns
    -------
    xr.Dataset
        ``value`` (rank), the singular values, and ``share`` (rank) of the sum of their squares, all of them counted;
        for the side that is read ``left_top_id``, ``left_top_text``, ``left_top_value`` and the same with ``bottom``
        (rank, k), for the other ``right_...``. A side of neurons or of a head's own dimensions has ``..._top_unit``
        in place of ids and texts.

    Raises
    ------
    CasebackError, UnknownSite, OutOfRange, SiteAbsent
        As for ``weights_as_words``; ``top`` must be at least 1.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> words = weight_svd_words(model, "ov", 2, head=1, top=3, k=4)
    >>> words["left_top_text"].dims, words["right_top_text"].shape
    (('rank', 'k'), (3, 4))
    """
    max_logits = limit("weight_products", given=max_logits)
    expect_sizes(k, max_logits)
    if top < 1:
        raise OutOfRange(f"top={top}: expected at least 1 singular vector")
    expect_in_weights(model.anatomy, "a matrix in words")
    kind, weights = kind_of(matrix), weights_of(model, folded)
    u, values, vh = svd_of(matrix_of(model, weights, matrix, layer, head, expert))
    squares = values.pow(2)
    share = squares / squares.sum().clamp_min(torch.finfo(values.dtype).tiny)
    left, right = _signed(u.mT[:top], vh[:top], weights, kind, max_logits)
    attrs: dict[str, Any] = {
        "matrix": matrix,
        "layer": model.anatomy.layer(layer),
        "head": head,
        "expert": expert,
        "folded": folded,
    }
    arrays = {}
    k = min(k, *(model.d_vocab if side in ("in", "out") else size for side, size in _widths(kind, left, right)))
    for name, vectors, side in (("left", left, kind.left), ("right", right, kind.right)):
        worded = side in ("in", "out")
        for end, numbers in ends(vectors, table_of(weights, side) if worded else None, k, max_logits).items():
            arrays[f"{name}_{end if worded else end.replace('_id', '_unit')}"] = numbers
    words = as_words(model, arrays, ["rank", "k"], {"rank": range(len(left))}, weight_svd_words, attrs)
    for name, numbers in (("value", values[:top]), ("share", share[:top])):
        words[name] = labelled(
            numbers,
            ["rank"],
            {"rank": range(len(left))},
            name=name,
            technique=weight_svd_words,
            model=model,
            **attrs,
        )
    return words


def svd_of(
    matrix: Float[Tensor, "n m"] | Factored,
) -> tuple[Float[Tensor, "n k"], Float[Tensor, " k"], Float[Tensor, "k m"]]:
    """U, S, V^T of a matrix, reduced; of factors without forming their product."""
    return matrix.svd() if isinstance(matrix, Factored) else torch.linalg.svd(matrix, full_matrices=False)


def _widths(kind: Kind, left: Tensor, right: Tensor) -> list[tuple[str, int]]:
    return [(kind.left, left.shape[1]), (kind.right, right.shape[1])]


def _signed(left: Tensor, right: Tensor, weights: Weights, kind: Kind, max_logits: int) -> tuple[Tensor, Tensor]:
    """Both sides of each pair, turned so that the side that is read as tokens has its longer tail upwards."""
    vectors, side = (right, kind.right) if kind.right in ("in", "out") else (left, kind.left)
    extremes = ends(vectors, table_of(weights, side), 1, max_logits)
    turn = torch.from_numpy(extremes["top_value"] + extremes["bottom_value"] < 0).to(vectors.device)
    sign = torch.where(turn, -1.0, 1.0).to(vectors)
    return left * sign, right * sign
