"""A head's two circuits between tokens (PRIMER 4.3.9), which are V x V and are never formed.

    OV:  W_E W_V W_O W_U        [s, t]: by how much attending to token s raises token t
    QK:  W_E W_Q W_K^T W_E^T    [q, k]: by how much a query of token q prefers a key of token k

Both have rank d_head at most and are kept as (V, d_head) and (d_head, V). Rows are formed some at a time, and of each
stretch only its best entries are kept. Biases are left out, QK is that of distance 0 and not yet divided by
sqrt(d_head); where queries and keys are normed by themselves each score is this over their norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from caseback.decode.vocabulary.lenses.lens_statistics import expect_sizes
from caseback.decode.vocabulary.weights.named_matrices import kind_of, matrix_of, table_of, weights_of
from caseback.decode.vocabulary.weights.weight_words import as_words, joined
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.model.algebra.factored import Factored
from caseback.model.algebra.under_edits import expect_in_weights
from caseback.model.arguments import checked
from caseback.model.registry import technique
from caseback.model.running.model import Model


@checked
def vocabulary_circuit(model: Model, matrix: str, layer: int, head: int, *, folded: bool = True) -> Factored:
    """W_E W_OV W_U or W_E W_QK W_E^T of one head as factors, (vocab, vocab) through d_head (PRIMER 4.3.9).

    Parameters
    ----------
    model
        The model.
    matrix
        ``"ov"`` or ``"qk"``.
    layer, head
        Whose.
    folded
        Fold the norm before the head and, for OV, the final norm in.

    Raises
    ------
    CasebackError
        For another matrix.
    UnknownSite
        For a layer that is not there.
    OutOfRange
        For a head that is not there.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> circuit = vocabulary_circuit(model, "ov", 0, 0)
    >>> circuit.shape == (model.d_vocab, model.d_vocab), circuit.inner == model.d_head
    (True, True)
    """
    expect_in_weights(model.anatomy, "a matrix in words")
    kind, weights = kind_of(matrix), weights_of(model, folded)
    if not kind.circuit:
        raise CasebackError(f"matrix {matrix!r} has words on one side only: expected 'ov' or 'qk'")
    factors = matrix_of(model, weights, matrix, layer, head)
    assert isinstance(factors, Factored)
    left, right = table_of(weights, kind.left), table_of(weights, kind.right)
    return Factored(left.mT.to(factors.left) @ factors.left, factors.right @ right.to(factors.right))


@technique(
    role="weights in words",
    entry=("4.3.9",),
    citation="Elhage et al. 2021; Dar et al. 2023",
    cost="vocabulary^2 x d_head, streamed",
)
def circuit_pairs(
    model: Model,
    matrix: str,
    layer: int,
    head: int,
    *,
    k: int = 20,
    tokens: Sequence[str | int] | None = None,
    folded: bool = True,
    max_logits: int | None = None,
) -> xr.Dataset:
    """Find the pairs of tokens that one head's OV or QK joins most and least, and how far it copies.

    Parameters
    ----------
    model
        The model.
    matrix
        ``"ov"`` or ``"qk"``.
    layer, head
        Whose.
    k
        How many pairs are kept at each end.
    tokens
        The tokens attended to (``ov``) or asking (``qk``), which are the rows; all of the vocabulary by default.
    folded
        Fold the norm before the head and, for OV, the final norm in.
    max_logits
        The most entries formed at once.

    Returns
    -------
    xr.Dataset
        (k,): ``top_value``, ``top_from_id``, ``top_from_text``, ``top_to_id``, ``top_to_text``, largest first; the
        same with ``bottom``, smallest first. ``own_value`` (vocab), the largest entries of the diagonal, a token with
        itself, its text in the coordinate ``token``. Of all rows the attributes tell ``copying``, the share whose own
        column is the largest; ``own_mean``, the diagonal's mean, and ``mean``, that of all entries.

    Raises
    ------
    CasebackError
        For another matrix.
    UnknownSite
        For a layer that is not there.
    OutOfRange
        For a head that is not there, no tokens, and ``k`` or ``max_logits`` below 1.
    TargetError
        For a text that is not one token.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> pairs = circuit_pairs(model, "ov", 2, 0, k=5)
    >>> pairs["top_to_text"].dims, bool(pairs["top_value"][0] >= pairs["top_value"][1])
    (('k',), True)
    """
    max_logits = limit("weight_products", given=max_logits)
    expect_sizes(k, max_logits)
    circuit = vocabulary_circuit(model, matrix, layer, head, folded=folded)
    ids = _ids(model, tokens, circuit.shape[0])
    left, right = circuit.left, circuit.right
    ids = ids.to(left.device)
    best_pairs: dict[str, tuple[Tensor, Tensor]] = {}
    own, copied = [], 0
    stride = right.shape[1]
    for some in ids.split(max(1, max_logits // stride)):
        values = left[some] @ right
        own.append(values.gather(-1, some[:, None])[:, 0])
        copied += int((values.argmax(-1) == some).sum())
        for name, largest in (("top", True), ("bottom", False)):
            # the k best entries stand in the k rows with the best of their own: the others need no sorting
            peaks = values.amax(-1) if largest else values.amin(-1)
            rows = peaks.topk(min(k, len(some)), largest=largest).indices
            best = values[rows].flatten().topk(min(k, len(rows) * stride), largest=largest)
            # a pair as one number: its row's token times the vocabulary plus its column
            pair = some[rows[best.indices // stride]] * stride + best.indices % stride
            _keep(best_pairs, name, best.values, pair, k, largest)
    arrays = {}
    for name, (values, pair) in best_pairs.items():
        arrays[f"{name}_value"] = values.cpu().numpy()
        arrays[f"{name}_from_id"] = (pair // stride).cpu().numpy()
        arrays[f"{name}_to_id"] = (pair % stride).cpu().numpy()
    diagonal = torch.cat(own)
    attrs: dict[str, Any] = {
        **{"matrix": matrix, "layer": model.anatomy.layer(layer), "head": head, "folded": folded, "rows": len(ids)},
        "copying": copied / len(ids),
        "own_mean": float(diagonal.mean()),
        "mean": float(left[ids].mean(0) @ right.mean(1)),
    }
    words = as_words(model, arrays, ["k"], {}, circuit_pairs, attrs)
    best = diagonal.topk(min(k, len(ids)))
    coords = {"vocab": ids[best.indices], "token": ("vocab", [model.token_text(i) for i in ids[best.indices].tolist()])}
    own_value = as_words(model, {"own_value": best.values.cpu().numpy()}, ["vocab"], coords, circuit_pairs, attrs)
    return joined(words, own_value)


def _keep(
    best_pairs: dict[str, tuple[Tensor, Tensor]], name: str, values: Tensor, pair: Tensor, k: int, largest: bool
) -> None:
    """Put the best of the pairs so far and of the new ones in their place."""
    if name in best_pairs:
        values, pair = torch.cat([best_pairs[name][0], values]), torch.cat([best_pairs[name][1], pair])
    best = values.topk(min(k, len(values)), largest=largest)
    best_pairs[name] = (best.values, pair[best.indices])


@technique(
    role="weights in words",
    entry=("4.3.9",),
    citation="Elhage et al. 2021; Wang et al. 2023",
    cost="tokens x vocabulary x d_head",
)
def circuit_of_tokens(
    model: Model,
    matrix: str,
    layer: int,
    head: int,
    tokens: Sequence[str | int] | None = None,
    *,
    k: int = 10,
    folded: bool = True,
    max_logits: int | None = None,
) -> xr.Dataset:
    """Tell what a head writes when it attends to a token (OV), or which keys a token's query prefers (QK).

    Parameters
    ----------
    model, matrix, layer, head, folded, max_logits
        As for ``circuit_pairs``.
    tokens
        The rows; the whole vocabulary by default.
    k
        How many tokens are kept at each end of a row.

    Returns
    -------
    xr.Dataset
        ``top_id``, ``top_text``, ``top_value``, ``bottom_id`` ... (vocab, k), with the row's text in the coordinate
        ``token``; ``own_value`` and ``own_rank`` (vocab), the token's own entry and its place in the row from 1.

    Raises
    ------
    CasebackError, UnknownSite, OutOfRange, TargetError
        As for ``circuit_pairs``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> rows = circuit_of_tokens(model, "ov", 2, 0, [" Mary", " John"], k=3)
    >>> rows["top_text"].shape, rows["own_rank"].dims
    ((2, 3), ('vocab',))
    """
    max_logits = limit("weight_products", given=max_logits)
    expect_sizes(k, max_logits)
    circuit = vocabulary_circuit(model, matrix, layer, head, folded=folded)
    ids = _ids(model, tokens, circuit.shape[0]).to(circuit.left.device)
    pieces: dict[str, list[Tensor]] = {}
    for some in ids.split(max(1, max_logits // circuit.shape[1])):
        values = circuit.left[some] @ circuit.right
        mine = values.gather(-1, some[:, None])
        readings = {"own_value": mine[:, 0], "own_rank": (values > mine).sum(-1) + 1}
        for name, largest in (("top", True), ("bottom", False)):
            best = values.topk(min(k, values.shape[1]), -1, largest=largest)
            readings |= {f"{name}_id": best.indices, f"{name}_value": best.values}
        for name, value in readings.items():
            pieces.setdefault(name, []).append(value)
    arrays = {name: torch.cat(parts).cpu().numpy() for name, parts in pieces.items()}
    texts = [model.token_text(i) for i in ids.tolist()]
    coords = {"vocab": ids, "token": ("vocab", texts)}
    attrs = {"matrix": matrix, "layer": model.anatomy.layer(layer), "head": head, "folded": folded}
    own = {name: arrays.pop(name) for name in ("own_value", "own_rank")}
    words = as_words(model, arrays, ["vocab", "k"], coords, circuit_of_tokens, attrs)
    return joined(words, as_words(model, own, ["vocab"], coords, circuit_of_tokens, attrs))


def _ids(model: Model, tokens: Sequence[str | int] | None, size: int) -> Tensor:
    if tokens is None:
        return torch.arange(size)
    ids = [model.token_id(token) for token in ([tokens] if isinstance(tokens, str | int) else tokens)]
    if not ids:
        raise OutOfRange("tokens is empty: name at least one, or leave it out for the whole vocabulary")
    if max(ids) >= size:
        raise OutOfRange(f"token {max(ids)} has no row: the embedding has {size}")
    return torch.tensor(ids)
