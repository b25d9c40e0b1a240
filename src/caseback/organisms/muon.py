"""Muon: momentum whose update of each matrix is made orthogonal before it is applied.

For a matrix W with gradient G:  M ← βM + G,  W ← W(1 − ηλ) − η·√max(1, out/in)·UVᵀ  where
UΣVᵀ = G + βM. Five steps of a quintic Newton–Schulz iteration stand in for the decomposition.
It is used here because it gets further in few steps. (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon)
"""

from __future__ import annotations

import torch
from jaxtyping import Float


def orthogonalized(
    matrices: Float[torch.Tensor, "matrix row col"], steps: int = 5
) -> Float[torch.Tensor, "matrix row col"]:
    """Each matrix with its singular values pushed to about 1 (within 0.7 and 1.2).

    Parameters
    ----------
    matrices
        A stack of matrices of equal shape.
    steps
        How many Newton–Schulz iterations; 5 in the original.
    """
    wide = matrices.shape[-1] >= matrices.shape[-2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Muon over weights stored ``(in, out)``, as GPT-2's are.

    Parameters
    ----------
    parameters
        Matrices. One with three times as many columns as rows is query, key and value side by side, and is cut into
        three.
    lr, momentum, weight_decay
        The rates; ``lr`` and ``momentum`` default to the original's.
    """

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            beta, lr = group["momentum"], group["lr"]
            stacks: dict[tuple[int, int], list[tuple[torch.Tensor, torch.Tensor]]] = {}
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].mul_(beta).add_(parameter.grad)
                update = parameter.grad + beta * state["momentum"]
                rows, columns = parameter.shape
                blocks = 3 if columns == 3 * rows else 1
                for block, target in zip(update.chunk(blocks, 1), parameter.chunk(blocks, 1), strict=True):
                    stacks.setdefault(tuple(block.shape), []).append((block, target))
            for (rows, columns), pairs in stacks.items():
                updates = orthogonalized(torch.stack([block for block, _ in pairs]))
                for update, (_, target) in zip(updates, pairs, strict=True):
                    target.mul_(1 - lr * group["weight_decay"])
                    target.add_(update, alpha=-lr * max(1.0, columns / rows) ** 0.5)
