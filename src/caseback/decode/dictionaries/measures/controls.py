"""Dictionaries to compare with: what is left where nothing, or only the encoder, was learned.

    random          directions r drawn at random, written as n r, n the length of the dictionary's own row, and read as
                    r / n, a transcoder's by others as long as its own; thresholds at its L0
    frozen decoder  the same rows, never trained; encoder and biases are trained on states

So the reconstruction, the sum of (r.x) r over active features, does not depend on how a feature's length is shared out
between its two rows, as layouts do differently, or on whether a scale of states is folded into them.

A trained dictionary says something about a model by what it has beyond these: on several scores the second has come
within a few hundredths of it (arXiv 2602.14111).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from caseback.decode.dictionaries.architectures.topk import TopK
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.facts import Facts
from caseback.decode.dictionaries.measures.given import (
    StatesLike,
    blocks_of,
    expect_widths,
    pieces_of,
    rows_in_hand,
    whole,
)
from caseback.errors import OutOfRange, TokensError
from caseback.jobs.progress import progress_bar
from caseback.model.arguments import checked


@checked
def random_dictionary(dictionary: Dictionary, states: StatesLike, *, seed: int = 0) -> Dictionary:
    """A dictionary of the same architecture, size and L0 whose features are random directions.

    Parameters
    ----------
    dictionary
        The one to compare with.
    states
        (token, d_in): its mean becomes the bias, and the L0 is matched on them, the first block of them in pieces.
    seed
        Same seed, same directions.

    Returns
    -------
    Dictionary
        Where codes are selected by a threshold, ``b_enc`` times the written row's length is one number at which as many
        are active in all as in ``dictionary``.

    Raises
    ------
    TokensError
        For states of another width, or none.

    Examples
    --------
    >>> from caseback.decode.dictionaries import Standard
    >>> x = torch.randn(500, 8, generator=torch.Generator().manual_seed(1))
    >>> one = Standard(8, 32)
    >>> one.b_enc.data -= 1
    >>> other = random_dictionary(one, x)
    >>> l0 = [float((d.encode(x) != 0).sum(1).double().mean()) for d in (one, other)]
    >>> abs(l0[0] - l0[1]) < 0.02
    True
    """
    x = next(blocks_of(pieces_of(states), 4096), None)
    if x is None:
        raise TokensError("there are no states: expected one token at least")
    expect_widths({"the dictionary": dictionary}, x.shape[1], dictionary.d_out)
    other = copy.deepcopy(dictionary)
    x = x.to(other.W_enc)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        rows = torch.randn(other.n_features, other.d_out, generator=draw, dtype=torch.float64).to(other.W_dec)
        rows /= rows.norm(dim=1, keepdim=True)
        lengths = _lengths(dictionary)
        reads = rows / lengths[:, None]
        if other.d_in != other.d_out or other.facts.is_transcoder:
            reads = torch.randn(other.n_features, other.d_in, generator=draw, dtype=torch.float64).to(other.W_enc)
            reads *= (dictionary.W_enc.norm(dim=1) / reads.norm(dim=1))[:, None]
        other.W_enc.copy_(reads)
        other.W_dec.copy_(rows * dictionary.norms()[:, None])
        other.b_enc.zero_()
        if not other.facts.is_transcoder and other.d_in == other.d_out:
            other.b_dec.copy_(other.normalized(x).mean(0))
        match_l0(other, x, l0_of(dictionary, x))
    return other


@checked
def frozen_decoder(
    dictionary: Dictionary,
    states: StatesLike,
    targets: StatesLike | None = None,
    *,
    steps: int = 1000,
    batch_size: int = 2048,
    lr: float = 1e-3,
    coefficient: float = 0.0,
    seed: int = 0,
    progress: bool = False,
) -> Dictionary:
    """A dictionary whose decoder is random and stays so, and whose encoder is trained.

    Parameters
    ----------
    dictionary
        The one to compare with: its architecture, size and, to begin with, L0.
    states, targets
        (token, d), whole; what to reconstruct, for transcoders.
    steps, batch_size, lr
        Of Adam, on batches drawn from the states. Give as many tokens as the dictionary was trained on, or fewer.
    coefficient
        Of the architecture's penalty, where it has one.
    seed
        Same seed, same result.
    progress
        Show a progress bar.

    Returns
    -------
    Dictionary
        Trained.

    Raises
    ------
    TokensError
        For states of another width, none, or another number of targets.
    OutOfRange
        For steps, a batch or a rate that are not above 0.

    Examples
    --------
    >>> from caseback.decode.dictionaries import TopK
    >>> x = torch.randn(500, 8, generator=torch.Generator().manual_seed(1))
    >>> one = frozen_decoder(TopK(8, 32, k=4), x, steps=50, lr=1e-2)
    >>> random = random_dictionary(TopK(8, 32, k=4), x)
    >>> bool(torch.equal(one.W_dec, random.W_dec)), bool((one(x) - x).norm() < (random(x) - x).norm())
    (True, True)
    """
    if steps < 1 or batch_size < 1 or not lr > 0:
        raise OutOfRange(f"steps {steps}, batch_size {batch_size}, lr {lr}: expected 1 or more, and a rate above 0")
    other = random_dictionary(dictionary, states, seed=seed)
    x = whole(states).to(other.W_enc)
    target = None if targets is None else whole(targets, "targets").to(other.W_enc)
    if target is not None and target.shape != (len(x), other.d_out):
        raise TokensError(f"targets of shape {tuple(target.shape)}: expected {(len(x), other.d_out)}")
    rows, learns = other.W_dec.detach().clone(), other.W_dec.requires_grad
    other.W_dec.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in other.parameters() if p.requires_grad], lr=lr)
    draw = torch.Generator().manual_seed(seed)
    dead = torch.zeros(other.n_features, dtype=torch.bool, device=x.device)
    for _ in progress_bar(range(steps), "frozen decoder", show=progress):
        batch = torch.randint(len(x), (min(batch_size, len(x)),), generator=draw).to(x.device)
        losses = other.losses(x[batch], None if target is None else target[batch], coefficient=coefficient, dead=dead)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        with torch.no_grad():
            other.after_step()
            other.W_dec.copy_(rows)
    other.W_dec.requires_grad_(learns)
    return other


@torch.no_grad()
def l0_of(dictionary: Dictionary, x: Tensor) -> float:
    """Active features a token."""
    counts = [(dictionary.encode(some) != 0).sum() for some in x.split(rows_in_hand(dictionary))]
    return float(sum(counts)) / len(x)


def _lengths(dictionary: Dictionary) -> Tensor:
    """The lengths of the rows that are written; 1 where a feature writes nothing."""
    return dictionary.norms().where(dictionary.norms() > 0, 1.0)


@torch.no_grad()
def match_l0(dictionary: Dictionary, x: Tensor, l0: float) -> None:
    """One bias for all rows of length 1, found by halving, at which as many are active; left alone if they are."""
    if abs(l0_of(dictionary, x) - l0) < 1e-9:
        return
    lengths = _lengths(dictionary)
    scale = 2 * float((dictionary.scores(x[:256]) * lengths).abs().max()) + 1.0
    low, high = -scale, scale
    for _ in range(30):
        middle = (low + high) / 2
        dictionary.b_enc.copy_(middle / lengths)
        low, high = (middle, high) if l0_of(dictionary, x) < l0 else (low, middle)


@checked
def neuron_dictionary(d: int, *, k: int | None = None, facts: Facts | None = None) -> Dictionary:
    """The coordinates of a site as a dictionary, so that neurons are measured as features are (entry 4.2.23).

    Parameters
    ----------
    d
        Width of the site, such as the number of neurons at ``mlp_post``.
    k
        How many of the largest are active at a token; by default all, and nothing is lost.
    facts
        Where it reads, as ``Facts(site="mlp_post.3")``.

    Returns
    -------
    Dictionary
        A TopK of ``d`` features that keeps signs, with the identity as both of its matrices.

    Raises
    ------
    OutOfRange
        For a width or ``k`` that is not possible.

    Examples
    --------
    >>> x = torch.randn(3, 5)
    >>> bool((neuron_dictionary(5)(x) == x).all())
    True
    """
    one = TopK(d, d, k=d if k is None else k, relu=False, facts=facts)
    one.W_enc.data, one.W_dec.data = torch.eye(d), torch.eye(d)
    return one
