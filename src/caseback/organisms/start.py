"""The weights that training starts from: random, but for positions that can be shifted.

Positions are sinusoids, so that one rotation R turns p(i) into p(i−1) for every i: a head that looks at the token
before has to learn one matrix, rather than something for each position. They lie in the first dimensions of the stream,
which tokens hardly use. Query, key and value projections are twice the usual size, so that attention is not flat. No
head is written in: whatever heads do, they learn.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from transformers import GPT2LMHeadModel

WIDTH = 32  # of the positions
SCALE = 0.08  # of tokens and positions alike


def sinusoids(length: int, width: int, longest: float = 400.0) -> Float[torch.Tensor, "pos width"]:
    """Positions as sines and cosines of ``width / 2`` rates, the slowest with a period of ``longest``."""
    rates = torch.pi / 2 * (longest / 4) ** -torch.linspace(0, 1, width // 2)
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


@torch.no_grad()
def draw_start(model: GPT2LMHeadModel, seed: int) -> None:
    """Give a fresh model its positions and the scale of its tokens, in place.

    Parameters
    ----------
    model
        The model as the library initialized it.
    seed
        Same seed, same result. Draws the token embeddings.
    """
    body: Any = model.transformer  # a Module's attributes are untyped
    body.wpe.weight.zero_()
    body.wpe.weight[:, :WIDTH] = SCALE * sinusoids(model.config.n_positions, WIDTH)
    body.wte.weight.normal_(0.0, SCALE, generator=torch.Generator().manual_seed(seed))
    body.wte.weight[:, :WIDTH] *= 0.1
    for block in body.h:
        block.attn.c_attn.weight *= 2
