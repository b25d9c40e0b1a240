"""Noise on the embeddings: a corruption that needs no counterfactual prompt (PRIMER 3.2.11).

    x~ = x + e,    e ~ N(0, sigma^2 I) at the chosen tokens,    sigma = 3 std(W_E) by default

Each prompt is run once per draw. A draw is the same whatever other prompts stand in the batch and on whichever side
they are padded, so that all variants of one experiment, and the same experiment elsewhere, meet the same noise.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.model.anatomy.coerce import widened
from caseback.model.anatomy.stream import expect_token_embeddings
from caseback.model.prompts.copies import repeated
from caseback.model.running.edits import Add
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens

TIMES_STD = 3.0
"""Meng et al. 2022 corrupt with three standard deviations of the embeddings."""


@torch.no_grad()
def embedding_std(model: Model) -> float:
    """The standard deviation of all numbers that the embedding writes into the stream, over the vocabulary.

    Examples
    --------
    >>> import caseback as cb
    >>> 0 < embedding_std(cb.load("meadow")) < 10
    True
    """
    anatomy, total, squares, count = model.anatomy, 0.0, 0.0, 0
    expect_token_embeddings(anatomy)
    for ids in torch.arange(model.d_vocab, device=model.device).split(limit("embedded_tokens")):
        x = anatomy.embed(ids[None])
        for module in (anatomy.embed_project, anatomy.embed_norm):
            x = x if module is None else module(x)
        x = widened(x) * anatomy.embed_scale
        total, squares, count = total + float(x.sum()), squares + float(x.pow(2).sum()), count + x.numel()
    mean = total / count
    return max(squares / count - mean * mean, 0.0) ** 0.5


def sigma_of(model: Model, sigma: float | None) -> float:
    """The noise asked for, three standard deviations of the embeddings where none is.

    Raises
    ------
    CasebackError
        For noise that is not positive.
    """
    if sigma is None:
        return TIMES_STD * embedding_std(model)
    if not sigma > 0:
        raise CasebackError(f"sigma={sigma}: expected a positive standard deviation, or None for {TIMES_STD:g} stds")
    return float(sigma)


def noised(
    model: Model, tokens: Tokens, spans: list[list[int]], *, sigma: float, samples: int, seed: int
) -> tuple[Tokens, Add]:
    """Prompts repeated once per draw, the copies of one beside each other, and the edit that adds their noise.

    Parameters
    ----------
    model, tokens
        The model and the prompts.
    spans
        The positions of each prompt that get noise.
    sigma, samples, seed
        Standard deviation, number of draws, and what draws follow from.

    Raises
    ------
    CasebackError
        For fewer than one draw, or a negative seed.
    """
    if samples < 1 or seed < 0:
        raise CasebackError(f"samples={samples}, seed={seed}: expected at least 1 draw of noise and a seed from 0 up")
    width = int(tokens.lengths.max())
    draws = [_draw(seed, s, width, model.d_model) for s in range(samples)]
    where = torch.zeros(len(tokens), width, 1, dtype=torch.float64)
    for b, span in enumerate(spans):
        where[b, span] = 1.0
    value = where[:, None] * torch.stack(draws)[None] * sigma
    return repeated(tokens, samples), Add("embed", value.flatten(0, 1).to(model.device, model.dtype))


def _draw(seed: int, sample: int, width: int, d_model: int) -> Tensor:
    # numpy draws one number after another, so that a longer prompt in the batch leaves a shorter one's noise as it is
    return torch.from_numpy(np.random.default_rng([seed, sample]).standard_normal((width, d_model)))
