"""Weights as associative memories: how many pairs each matrix recalls (PRIMER 5.4.13; Bietti et al. 2023).

    recall(W)  = share of k whose pair is the first of all:   argmax_j u_k^T W v_j = the pair of k
    copies     OV = W_V W_O:               what a head writes of a token raises that token's logit most
    matches    QK_2 after OV_1:            a query of a token scores highest the key of what head 1 wrote of that token
    places     QK of positions:            a query at t scores t - 1 highest of all positions up to t

An induction head is made of the three: places in the first layer, matches between the layers, copies in the last. The
control is another pair, of the token before in a random order (of places, the position two before): no memory has it.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import CasebackError, SiteAbsent
from caseback.model.algebra.folding import embedded
from caseback.model.algebra.under_edits import expect_in_weights
from caseback.model.algebra.weights import Weights
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.results import labelled_set
from caseback.model.running.model import Model
from caseback.tasks.standard.repeats import ordinary_tokens

WORDS = 400
"""Tokens that are recalled, and among which."""


@technique(
    role="decomposition",
    entry=("5.4.13",),
    citation="Bietti et al. 2023",
    cost="weights only: pairs of heads x words^2 x d_head",
)
def memory_recall(model: Model, *, words: int = WORDS, folded: bool = True, seed: int = 0) -> xr.Dataset:
    """How many of their pairs a model's attention matrices recall: copies, matches, places.

    Parameters
    ----------
    model
        The model.
    words
        How many tokens of the vocabulary are looked at, drawn at random; all where there are fewer.
    folded
        Fold norms' gains into the matrices. Their division by the size of the stream, and biases, are left out.
    seed
        Same seed, same result. It draws the tokens, and the other pairs.

    Returns
    -------
    xr.Dataset
        ``copies`` and ``places`` (layer, head), ``matches`` (layer, head, layer_to, head_to), the earlier head first
        and NaN where the other is not in a later layer; each from 0 to 1, with ``copies_control`` and so on beside it.
        Where positions are not learned vectors ``places`` is NaN. With rotary embeddings matches are at distance 0.

    Raises
    ------
    CasebackError
        For a vocabulary of fewer than two ordinary tokens, or fewer than two asked for.

    Notes
    -----
    Entry 5.4.13. They give each matrix of a model without norms, trained on bigrams; here any head's.

    Examples
    --------
    >>> from caseback.organisms.compiled import build
    >>> recalled = memory_recall(build("induction", alphabet="abcdef", max_length=10).model)
    >>> float(recalled.places[0, 0]), float(recalled.matches[0, 0, 1, 0]), float(recalled.copies[1, 0])
    (1.0, 1.0, 1.0)
    """
    expect_in_weights(model.anatomy, "what weights recall")
    rng = np.random.default_rng(seed)
    ids = rng.permutation(ordinary_tokens(model))[:words]
    if len(ids) < 2:
        raise CasebackError(f"{len(ids)} tokens to recall: expected two or more, of a vocabulary that has them")
    tokens = torch.as_tensor(ids, device=model.device)
    other = torch.as_tensor(np.roll(np.arange(len(ids)), 1), device=model.device)
    weights = Weights(model.anatomy)
    weights = weights.folded() if folded else weights
    x = embedded(model.anatomy, tokens)
    unembed = at_least_float32(weights.W_U)[:, tokens]
    n_layers, n_heads = model.n_layers, model.n_heads
    writes = [at_least_float32(x @ at_least_float32(ov.left)) @ at_least_float32(ov.right) for ov in weights.OV]
    copies = [_recall(own @ unembed, other) for own in writes]
    matches = torch.full((2, n_layers, n_heads, n_layers, n_heads), torch.nan, dtype=torch.float64)
    for b in range(1, n_layers):
        queries = x @ at_least_float32(weights.W_Q[b])
        keys = at_least_float32(weights.W_K.per_head[b])
        for a in range(b):
            for h, own in enumerate(writes[a]):  # one head's maps at a time: heads x words^2 numbers
                matches[:, a, h, b] = _recall(queries @ (own @ keys).mT, other)
    places = [_places(weights, layer, n_heads) for layer in range(n_layers)]
    both: dict[str, tuple[Tensor, tuple[str, ...]]] = {
        "copies": (torch.stack(copies, 1), ("layer", "head")),
        "places": (torch.stack(places, 1), ("layer", "head")),
        "matches": (matches, ("layer", "head", "layer_to", "head_to")),
    }
    arrays = {name: (of[0], dims) for name, (of, dims) in both.items()}
    arrays |= {f"{name}_control": (of[1], dims) for name, (of, dims) in both.items()}
    numbers = {"layer": range(n_layers), "head": range(n_heads), "layer_to": range(n_layers), "head_to": range(n_heads)}
    return labelled_set(arrays, numbers, technique=memory_recall, model=model, words=len(ids), folded=folded, seed=seed)


def _recall(scores: Float[Tensor, "head k j"], other: Int[Tensor, " k"]) -> Float[Tensor, "2 head"]:
    """The share of k that score themselves highest, and of those that score another highest; ties are no recall."""
    first = scores >= scores.amax(-1, keepdim=True)
    alone = first & (first.sum(-1, keepdim=True) == 1)
    own = alone.diagonal(dim1=-2, dim2=-1)
    beside = alone.gather(-1, other.expand(alone.shape[:-1])[..., None])[..., 0]
    return torch.stack([own, beside]).cpu().double().mean(-1)


def _places(weights: Weights, layer: int, n_heads: int) -> Float[Tensor, "2 head"]:
    """The share of positions that look at the one before, and at the one before that, by positions alone."""
    try:
        positions = at_least_float32(weights.W_pos)
    except SiteAbsent:
        return torch.full((2, n_heads), torch.nan, dtype=torch.float64)
    q, k = (positions @ at_least_float32(w[layer]) for w in (weights.W_Q, weights.W_K.per_head))
    n = len(positions)
    scores = (q @ k.mT).masked_fill(torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1), -torch.inf)
    top = scores.argmax(-1)
    at = torch.arange(n, device=q.device)
    return torch.stack([(top == at - back)[:, 2:] for back in (1, 2)]).cpu().double().mean(-1)


def strongest(recalled: xr.Dataset, name: str) -> tuple[float, float]:
    """The most that a head, or a pair of heads, recalls, and its own control.

    Raises
    ------
    CasebackError
        Where no head has it.
    """
    values = recalled[name].values.ravel()
    if np.isnan(values).all():
        why = "positions are not learned vectors" if name == "places" else "no layer follows another"
        raise CasebackError(f"no memory of {name}: {why}")
    best = int(np.nanargmax(values))
    return float(values[best]), float(recalled[f"{name}_control"].values.ravel()[best])
