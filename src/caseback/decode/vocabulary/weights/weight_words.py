"""Weights as words (PRIMER 4.3.9): what a direction of the stream says where tokens enter and leave the model.

    written:   r W_U      for a row r of W_out or W_O, or a dictionary's decoder row: the tokens that it raises
    read:      W_E c      for a column c of W_in, W_gate, W_Q, W_K or W_V, or an encoder's: tokens that it answers

With ``folded`` the norms' gains, the centring and the multipliers between a weight and the tokens are part of it, so
values are logits for a stream whose final norm divides by 1, up to that denominator; without, bare matrices are
multiplied. What the layers in between do to a direction is left out: this is the direct path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.vocabulary.lenses.lens_statistics import expect_sizes, texts_of
from caseback.decode.vocabulary.weights.named_matrices import Side, finite, kind_of, matrix_of, table_of, weights_of
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.model.algebra.under_edits import expect_in_weights
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model


def ends(
    vectors: Float[Tensor, "row n"], table: Float[Tensor, "n vocab"] | None, k: int, max_logits: int
) -> dict[str, np.ndarray]:
    """The columns of the largest and of the smallest numbers of ``vectors @ table``, some rows at a time.

    Without a table of ``vectors`` themselves.

    Returns
    -------
    ``top_id`` and ``top_value`` (row, k), largest first, ``bottom_id`` and ``bottom_value``, smallest first.
    """
    width = vectors.shape[1] if table is None else table.shape[1]
    pieces: dict[str, list[Tensor]] = {name: [] for name in ("top_id", "top_value", "bottom_id", "bottom_value")}
    for some in vectors.split(max(1, max_logits // width)):
        values = some if table is None else some.to(table) @ table
        for name, largest in (("top", True), ("bottom", False)):
            best = values.topk(min(k, width), -1, largest=largest)
            pieces[f"{name}_id"].append(best.indices)
            pieces[f"{name}_value"].append(best.values)
    return {name: torch.cat(parts).cpu().numpy() for name, parts in pieces.items()}


def as_words(
    model: Model,
    arrays: dict[str, np.ndarray],
    dims: Sequence[str],
    coords: dict[str, Any],
    technique: Callable[..., Any],
    attrs: dict[str, Any],
) -> xr.Dataset:
    """Label numbers by their names, with the text of each id beside it; all have the same dimensions."""
    texts = {name[:-2] + "text": texts_of(model, ids) for name, ids in arrays.items() if name.endswith("_id")}
    variables = {
        name: labelled(values, dims, coords, name=name, technique=technique, model=model, **attrs)
        for name, values in {**arrays, **texts}.items()
    }
    return xr.Dataset(variables, attrs=next(iter(variables.values())).attrs)


def joined(*parts: xr.Dataset) -> xr.Dataset:
    """Results of one call that have different dimensions, as one."""
    return xr.Dataset({name: part[name] for part in parts for name in part.data_vars}, attrs=parts[0].attrs)


@technique(role="weights in words", entry=("4.3.9",), citation="Geva et al. 2022", cost="vectors x unembedding")
def vectors_as_words(
    model: Model,
    vectors: Float[Tensor, "*dims d_model"],
    *,
    side: Side = "out",
    k: int = 10,
    folded: bool = True,
    dims: Sequence[str] | None = None,
    max_logits: int | None = None,
) -> xr.Dataset:
    """Read any directions of the stream as words: neurons, heads, dictionary features, steering vectors.

    Parameters
    ----------
    model
        The model.
    vectors
        (..., d_model), directions of the stream.
    side
        ``"out"`` for what is written to the stream, through W_U; ``"in"`` for what is read from it, through W_E.
    k
        How many tokens are kept at each end.
    folded
        Multiply by the final norm's gain and the multipliers too (``Weights.folded``), the paper's choice; False for
        the bare W_U or W_E.
    dims
        Names of the dimensions before the last; for (row, d_model) ``("feature",)`` unless given.
    max_logits
        The most products formed at once; 2**24 are 64 MB in float32.

    Returns
    -------
    xr.Dataset
        (*dims, k): ``top_id``, ``top_text``, ``top_value``, largest first, and ``bottom_id``, ``bottom_text``,
        ``bottom_value``, smallest first.

    Raises
    ------
    CasebackError
        For vectors of another width or with NaN, another side, or dimensions without names.
    OutOfRange
        For ``k`` or ``max_logits`` below 1.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> direction = model.weights.folded().W_U[:, model.token_id(" cat")]
    >>> vectors_as_words(model, direction, k=3)["top_text"].values[0]
    np.str_(' cat')
    """
    max_logits = limit("weight_products", given=max_logits)
    expect_sizes(k, max_logits)
    if side not in ("in", "out"):
        raise CasebackError(f"side={side!r}: expected 'out' for what is written, or 'in' for what is read")
    if not isinstance(vectors, Tensor) or not vectors.ndim or vectors.shape[-1] != model.d_model or not vectors.numel():
        shape = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
        raise CasebackError(f"vectors of shape {shape}: expected a tensor (..., {model.d_model}), the model's width")
    lead = tuple(vectors.shape[:-1])
    names = list(dims) if dims is not None else ["feature"][: len(lead)]
    if len(names) != len(lead):
        raise CasebackError(f"vectors of shape {tuple(vectors.shape)} have dims={names}: name {len(lead)} dimensions")
    table = table_of(weights_of(model, folded), side)
    arrays = ends(finite(vectors.detach(), "vectors").reshape(-1, model.d_model), table, k, max_logits)
    arrays = {name: value.reshape(*lead, -1) for name, value in arrays.items()}
    attrs = {"side": side, "folded": folded}
    return as_words(model, arrays, [*names, "k"], {}, vectors_as_words, attrs)


@technique(
    role="weights in words",
    entry=("4.3.9",),
    citation="Geva et al. 2022; Dar et al. 2023",
    cost="units of a matrix x unembedding",
)
def weights_as_words(
    model: Model,
    matrix: str,
    layer: int,
    *,
    head: int | None = None,
    expert: int | None = None,
    units: Sequence[int] | None = None,
    k: int = 10,
    folded: bool = True,
    max_logits: int | None = None,
) -> xr.Dataset:
    """Read each neuron of an MLP, or each direction of a head, as words.

    Parameters
    ----------
    model
        The model.
    matrix
        ``"in"``, ``"gate"`` or ``"out"`` of the MLP; ``"q"``, ``"k"``, ``"v"`` or ``"o"`` of a head. What is read
        from the stream goes through W_E, what is written through W_U. For ``ov`` and ``qk`` see ``circuit_pairs``.
    layer, head, expert
        Whose; a head for a head's matrix, an expert where the MLP is a mixture.
    units
        Which neurons, or dimensions of the head; all by default.
    k
        How many tokens are kept at each end.
    folded
        Fold the norms beside the weight and the final norm in; see the file's head.
    max_logits
        The most products formed at once.

    Returns
    -------
    xr.Dataset
        (neuron, k) or (d_head, k): as for ``vectors_as_words``.

    Raises
    ------
    CasebackError
        For an unknown matrix, or a head or expert that is missing or does not belong to it.
    UnknownSite
        For a layer that is not there.
    OutOfRange
        For a head, expert or unit that is not there.
    SiteAbsent
        For a weight that the model lacks.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> words = weights_as_words(model, "out", 1, units=[0, 7], k=4)
    >>> words["top_text"].dims, words.neuron.values.tolist()
    (('neuron', 'k'), [0, 7])
    """
    max_logits = limit("weight_products", given=max_logits)
    expect_sizes(k, max_logits)
    expect_in_weights(model.anatomy, "a matrix in words")
    kind, weights = kind_of(matrix), weights_of(model, folded)
    if kind.circuit:
        raise CasebackError(f"{matrix!r} has words on both sides and no units: use circuit_pairs or weight_svd_words")
    weight = matrix_of(model, weights, matrix, layer, head, expert)
    assert isinstance(weight, Tensor)
    rows = weight if kind.left == kind.unit else weight.mT
    chosen = _units(units, len(rows), kind.unit)
    words = ends(rows if units is None else rows[chosen], table_of(weights, kind.side), k, max_logits)
    attrs = {
        "matrix": matrix,
        "layer": model.anatomy.layer(layer),
        "head": head,
        "expert": expert,
        "side": kind.side,
        "folded": folded,
    }
    return as_words(model, words, [kind.unit, "k"], {kind.unit: chosen}, weights_as_words, attrs)


def _units(units: Sequence[int] | None, size: int, what: str) -> list[int]:
    chosen = list(range(size)) if units is None else [int(u) for u in units]
    wrong = [u for u in chosen if not 0 <= u < size]
    if wrong or not chosen:
        raise OutOfRange(
            f"units {wrong or chosen}: expected some of 0 to {size - 1}, this matrix has no {what} besides"
        )
    return chosen
