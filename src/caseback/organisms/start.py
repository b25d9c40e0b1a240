"""The weights that training starts from: positions that can be shifted, and a sketch of induction.

From random weights no trace of induction had appeared after a million tokens, and a processor reads
only some four million in half an hour. So the start already has a sketch of its two steps, drawn into
random weights: positions are sinusoids, so that one rotation R turns p(i) into p(i−1), and

    layer 0, head 0:         q = R p(i),  k = p(j)          attends to the token before
                             writes S·t(j), a shadow of that token, into dimensions of its own
    layers 1 and 2, head 0:  q = S·t(i),  k = shadow(j)     attends to what followed the same token
                             writes t(j) back, which makes it likely to come next

All other heads and all MLPs are random, and every weight is trained.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from transformers import GPT2LMHeadModel

POSITION, SHADOW = slice(0, 32), slice(32, 64)
TOKEN_SCALE, POSITION_SCALE, SHADOW_SCALE = 0.08, 0.08, 0.5
LOOK_BACK, MATCH, COPY = 1.4, 1.4, 1.0


def sinusoids(
    length: int, width: int, longest: float = 400.0
) -> tuple[Float[torch.Tensor, "pos width"], Float[torch.Tensor, "width width"]]:
    """Positions as sines and cosines, and the matrix R with ``p(i) @ R = p(i − 1)``."""
    rates = torch.pi / 2 * (longest / 4) ** -torch.linspace(0, 1, width // 2)
    angles = torch.arange(length)[:, None] * rates
    positions = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
    back = torch.block_diag(*(torch.tensor([[r.cos(), r.sin()], [-r.sin(), r.cos()]]) for r in rates))
    return positions, back


@torch.no_grad()
def sketch_induction(model: GPT2LMHeadModel, seed: int) -> None:
    """Draw the two steps of induction into a fresh model, in place.

    Parameters
    ----------
    model
        With heads of 32 dimensions and at least three layers.
    seed
        Of the random projections.
    """
    draw = torch.Generator().manual_seed(seed)
    body: Any = model.transformer  # a Module's attributes are untyped
    d_model = model.config.n_embd
    tokens = slice(SHADOW.stop, d_model)
    positions, back = sinusoids(model.config.n_positions, 32)
    body.wpe.weight.zero_()
    body.wpe.weight[:, POSITION] = POSITION_SCALE * positions
    body.wte.weight.normal_(0.0, TOKEN_SCALE, generator=draw)
    body.wte.weight[:, : SHADOW.stop] *= 0.1
    project = torch.linalg.qr(torch.randn(d_model - SHADOW.stop, 32, generator=draw))[0]

    def head(layer: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        attention = body.h[layer].attn
        q, k, v = (part[:, :32] for part in attention.c_attn.weight.split(d_model, 1))
        for part in (q, k, v):
            part.zero_()
        out = attention.c_proj.weight[:32]
        out.zero_()
        return q, k, v, out

    q, k, v, out = head(0)
    q[POSITION], k[POSITION] = LOOK_BACK * back, LOOK_BACK * torch.eye(32)
    v[tokens], out[:, SHADOW] = project, SHADOW_SCALE * torch.eye(32)
    for layer in (1, 2):
        q, k, v, out = head(layer)
        q[tokens], k[SHADOW] = MATCH * project, MATCH * torch.eye(32)
        # The two layers copy different directions of the token.
        basis = torch.linalg.qr(torch.randn(d_model - SHADOW.stop, 32, generator=draw))[0]
        v[tokens], out[:, tokens] = basis, COPY * basis.T
