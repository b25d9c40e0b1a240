"""A step of training: the blocks' matrices by Muon, everything else by AdamW, one schedule for both.

rate(group, t) = peak(group) · share(t),      the gradient clipped to norm 1
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from caseback.organisms.muon import Muon

BETAS = (0.9, 0.98)


def optimizers_of(
    model: nn.Module, blocks: nn.Module, peaks: tuple[float, float], decay: float = 0.0
) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings, norms and biases; parameters of no size are in neither.

    Parameters
    ----------
    model, blocks
        The model, and the part of it whose matrices go to Muon.
    peaks
        The highest rates of the two.
    decay
        Of AdamW.
    """
    matrices = [w for w in blocks.parameters() if w.ndim == 2 and w.numel()]
    of_muon = {id(w) for w in matrices}
    others = [w for w in model.parameters() if id(w) not in of_muon and w.numel()]
    adam = torch.optim.AdamW(others, lr=peaks[1], betas=BETAS, weight_decay=decay, fused=True)
    return [Muon(matrices, lr=peaks[0]), adam]


def take_step(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    peaks: tuple[float, float],
    share: float,
    loss: Tensor,
) -> None:
    """Go one step down a loss, at a share of the highest rates."""
    for optimizer, peak in zip(optimizers, peaks, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * share
    model.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
