"""A word's units (PRIMER 4.3.9): which neurons and features of all layers write or read it, and which heads copy it.

    out        w_out . u_t           over its standard deviation over the vocabulary
    in, gate   e_t . w_in            likewise over the embeddings of the vocabulary
    ov         e_t W_V W_O u_t       likewise: how far a head that looks at the word raises it against all others
    features   d_i . u_t, e_t . f_i  likewise, d_i a feature's row of W_dec and f_i its row of W_enc

sd(w)^2 = w Cov w^T with Cov the covariance of the vocabulary's directions, d x d: no unit is multiplied by a vocabulary
but those that are returned, which have their rank. These are direct paths: what layers in between do is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.dictionaries.architectures.several_sources import expect_one_source
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.vocabulary.lenses.lens_statistics import expect_sizes
from caseback.decode.vocabulary.weights.named_matrices import MATRICES, Side, finite, table_of, weights_of
from caseback.decode.vocabulary.weights.weight_words import as_words
from caseback.errors import LoadError, OutOfRange, SiteAbsent
from caseback.jobs.budget import limit
from caseback.model.algebra.under_edits import expect_in_weights
from caseback.model.algebra.weights import Weights
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import as_site
from caseback.model.graph.names import Name
from caseback.model.registry import technique
from caseback.model.running.model import Model

OF_WORDS = ("out", "in", "gate", "ov")
WRITES, READS = "features that write", "features that read"


@technique(
    role="weights in words",
    entry=("4.3.9",),
    citation="Geva et al. 2022; Elhage et al. 2021",
    cost="every unit times one token",
)
def units_of_word(
    model: Model, word: str | int, *, dictionaries: Sequence[Dictionary] = (), k: int = 10, folded: bool = True
) -> xr.Dataset:
    """Which neurons, heads and features of dictionaries write or read a word, of all layers together.

    Parameters
    ----------
    model
        The model.
    word
        One token: its text, with the leading space where it has one, or its id.
    dictionaries
        Of this model's stream, of any sites and layers: what their features write is looked through, and what those
        that read the stream read. Their names are such as ``L3F1042:resid_post``.
    k
        How many units are kept at each end, no more than there are heads.
    folded
        Fold the norms beside the weights and the final norm in.

    Returns
    -------
    xr.Dataset
        (path, k), where a path is a matrix (``"out"``, ``"in"``, ``"gate"``, ``"ov"``; what the model lacks is left
        out), ``"features that write"`` or ``"features that read"``: ``top_unit`` a unit's name, ``top_value`` standard
        deviations over the vocabulary, largest first, ``top_rank`` the word's rank among all tokens in what that unit
        writes or reads, 1 for the first; ``bottom_unit``, ``bottom_value`` smallest first, ``bottom_rank`` from the
        lowest.

    Raises
    ------
    TargetError
        For text that is not one token, or an id that is none.
    OutOfRange
        For ``k`` below 1.
    LoadError
        For a dictionary that neither writes to nor reads from the stream, or does not say where.
    ArgumentError
        For a crosscoder or cross-layer transcoder, whose features are at several sites.

    Examples
    --------
    >>> import caseback as cb
    >>> units = units_of_word(cb.load("meadow"), " Mary", k=3)
    >>> units["path"].values.tolist(), dict(units["top_unit"].sizes)
    (['out', 'in', 'ov'], {'path': 3, 'k': 3})
    """
    expect_sizes(k, 1)
    token = model.token_id(word)
    expect_in_weights(model.anatomy, "a matrix in words")
    weights = weights_of(model, folded)
    tables = {side: table_of(weights, side) for side in ("in", "out")}
    for side, table in tables.items():
        if token >= table.shape[1]:
            raise OutOfRange(f"token {token} has no {'embedding' if side == 'in' else 'logit'} in this model")
    # no matrix of it is formed for each unit: heads' rows are the word's own, through W_V and W_O
    seen = tables["in"][:, token]
    named_rows: dict[str, tuple[list[str], Tensor]] = {}
    for matrix in OF_WORDS:
        try:
            parts = list(_rows(weights, matrix, seen))
        except SiteAbsent:
            continue
        if parts:
            rows = finite(torch.cat([own for _, own in parts]), f"weights of {matrix!r}")
            named_rows[matrix] = [name for named, _ in parts for name in named], rows
    named_rows |= _of_features(model, dictionaries)
    k = min(k, *(len(names) for names, _ in named_rows.values()))
    ends = []
    for matrix, (names, rows) in named_rows.items():
        side = _SIDES[matrix] if matrix in _SIDES else MATRICES[matrix].side
        ends.append(_both_ends(names, rows, tables[side], token, k))
    arrays = {name: np.stack([own[name] for own in ends]) for name in ends[0]}
    attrs: dict[str, Any] = {"folded": folded, "token": token, "word": model.token_text(token)}
    return as_words(model, arrays, ["path", "k"], {"path": list(named_rows)}, units_of_word, attrs)


def _rows(weights: Weights, matrix: str, seen: Float[Tensor, " d_model"]) -> Iterator[tuple[list[str], Tensor]]:
    """Each layer's units by name, and their directions in the stream; layers of experts are left out."""
    for layer in range(weights.anatomy.n_layers):
        if matrix == "ov":
            ov = weights.OV.per_head[layer]
            left, right = at_least_float32(ov.left), at_least_float32(ov.right)
            rows = torch.einsum("d,hde,hef->hf", seen.to(left), left, right)
        else:
            weight = getattr(weights, MATRICES[matrix].weight)[layer]
            if weight.ndim != 2:
                continue
            rows = at_least_float32(weight.detach() if MATRICES[matrix].left == "neuron" else weight.detach().mT)
        kind = "head" if matrix == "ov" else "neuron"
        yield [str(Name(kind, layer, i)) for i in range(len(rows))], rows


_SIDES: dict[str, Side] = {"ov": "out", WRITES: "out", READS: "in"}


def _of_features(model: Model, dictionaries: Sequence[Dictionary]) -> dict[str, tuple[list[str], Tensor]]:
    """By path the features of all dictionaries by name, and their directions in the stream."""
    parts: dict[str, list[tuple[list[str], Tensor]]] = {WRITES: [], READS: []}
    for dictionary in dictionaries:
        expect_one_source(dictionary, "a word's units")
        facts = dictionary.facts
        if not facts.site:
            raise LoadError(f"{dictionary!r} does not say at which site its features are: expected facts with a site")
        ends = ((WRITES, facts.target or facts.site, dictionary.W_dec), (READS, facts.site, dictionary.W_enc))
        before = sum(map(len, parts.values()))
        for path, site, weight in ends:
            name, layer = as_site(site)
            own = next(iter(model.anatomy.sites((name, layer) if layer is not None else name)))
            if own.kind.dims[1:] == ("d_model",) and weight.shape[1] == model.d_model:
                names = [str(Name("feature", own.layer or 0, i, site=name)) for i in range(len(weight))]
                rows = finite(at_least_float32(weight.detach()).to(model.device), f"features of {dictionary!r}")
                parts[path].append((names, rows))
        if sum(map(len, parts.values())) == before:
            raise LoadError(f"{dictionary!r} reads and writes no direction of the stream: its features have no words")
    return {
        path: ([name for names, _ in own for name in names], torch.cat([rows for _, rows in own]))
        for path, own in parts.items()
        if own
    }


def _both_ends(
    names: list[str], rows: Float[Tensor, "unit d_model"], table: Float[Tensor, "d_model vocab"], token: int, k: int
) -> dict[str, np.ndarray]:
    """The units at either end, and the word's rank in each of them."""
    mean = table.mean(1)
    moments = in_float64(table.new_zeros(len(table), len(table)))
    for some in table.split(max(1, limit("weight_products", table.device) // len(table)), 1):
        own = in_float64(some - mean[:, None])
        moments += own @ own.T
    wide = in_float64(rows)
    spread = ((wide @ (moments / table.shape[1])) * wide).sum(1).clamp_min(0).sqrt()
    # a row that writes nothing, up to rounding, stands nowhere
    real = spread > 1e-9 * spread.max().clamp_min(torch.finfo(spread.dtype).tiny)
    z = torch.where(real, wide @ in_float64(table[:, token] - mean) / torch.where(real, spread, 1), 0.0)
    arrays = {}
    for end, largest in (("top", True), ("bottom", False)):
        chosen = z.topk(k, largest=largest)
        sign = 1 if largest else -1
        logits = sign * (rows[chosen.indices].to(table) @ table)
        ranks = (logits > logits[:, token, None]).sum(1) + 1
        arrays[f"{end}_unit"] = np.array([names[i] for i in chosen.indices.tolist()])
        arrays[f"{end}_value"] = chosen.values.cpu().numpy()
        arrays[f"{end}_rank"] = ranks.cpu().numpy()
    return arrays
