"""Whole sentences by their probability: which of two does a model prefer?

    log p(s) = sum_i log p(t_i | t_<i)          preference = log p(good) - log p(bad)

A minimal pair is judged correctly where the preference is positive. There is no normalization by length: the sentences
of a minimal pair differ little, and BLiMP's published numbers have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import TokensError
from caseback.jobs.budget import limit
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.coerce import in_float64
from caseback.model.arguments import checked
from caseback.model.running.metrics import loss
from caseback.model.running.model import Model


@dataclass(frozen=True)
class MinimalPair:
    """Two sentences that differ in one point, which makes one of them unacceptable.

    Attributes
    ----------
    good, bad
        The sentences.
    group
        The phenomenon.
    """

    good: str
    bad: str
    group: str = ""


@checked
def sentence_log_prob(model: Model, sentences: Sequence[str], *, bos: bool | None = True) -> Float[Tensor, " batch"]:
    """The log probability of whole sentences, log p(s) = sum_i log p(t_i | t_<i).

    Parameters
    ----------
    model
        The model. It needs a tokenizer.
    sentences
        Texts of at least two tokens each, the beginning-of-text token included.
    bos
        Put a beginning-of-text token first, so that the first word counts; None leaves it to the tokenizer. Without
        such a token the sum begins at the second token.

    Returns
    -------
    Float[Tensor, "batch"]
        In nats, in the order given.

    Raises
    ------
    TokensError
        For no sentence, an empty one, or one longer than the context.
    TargetError
        For a sentence of one token.

    Examples
    --------
    >>> import caseback as cb
    >>> scores = sentence_log_prob(cb.load("meadow"), ["Mary went to the store.", "Store the to went Mary."])
    >>> bool(scores[0] > scores[1])
    True
    """
    expect_tokens_out(model.anatomy, "a score of sentences")
    if not sentences:
        raise TokensError("no sentence given: expected a list of texts")
    tokens = model.tokens(list(sentences), bos=bos)
    # Sentences of similar length share a pass, so that little of it is padding.
    order = tokens.lengths.argsort(descending=True)
    width = int(tokens.lengths.max())
    most = limit("sentence_logits", tokens.ids.device)
    rows = max(1, most // (width * model.d_vocab))
    scores = torch.zeros(len(tokens), dtype=torch.float64)
    for chunk in order.split(rows):
        longest = int(tokens.lengths[chunk].max())
        ids, mask = tokens.ids[chunk, :longest], tokens.mask[chunk, :longest]
        part = type(tokens)(ids, mask, [tokens.text[int(i)] for i in chunk])
        mean = loss()(model.run(part))
        scores[chunk.cpu()] = -(in_float64(mean.cpu()) * (part.lengths.cpu() - 1))
    return scores


@checked
def preference(model: Model, pairs: Sequence[MinimalPair], *, bos: bool | None = True) -> Float[Tensor, " batch"]:
    """How much a model prefers the good sentence of each minimal pair, log p(good) - log p(bad).

    The accuracy on a set is the share of positive values, ``(preference(model, pairs) > 0).double().mean()``.

    Parameters
    ----------
    model
        The model. It needs a tokenizer.
    pairs
        Minimal pairs, as ``formats.blimp_sentences`` gives them.
    bos
        As in ``sentence_log_prob``.

    Returns
    -------
    Float[Tensor, "batch"]
        In nats.

    References
    ----------
    Warstadt et al. 2020, "BLiMP: The Benchmark of Linguistic Minimal Pairs for English".

    Examples
    --------
    >>> import caseback as cb
    >>> pairs = [MinimalPair("The dogs are here.", "The dogs is here.")]
    >>> preference(cb.load("meadow"), pairs).shape
    torch.Size([1])
    """
    both = sentence_log_prob(model, [pair.good for pair in pairs] + [pair.bad for pair in pairs], bos=bos)
    good, bad = both.chunk(2)
    return good - bad
