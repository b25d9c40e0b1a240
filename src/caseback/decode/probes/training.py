"""Training of probes that have no closed form: all sites and tasks walk together, each with its own best epoch.

    parameters (site, task, ...),   loss (site, task),   the sum of losses is stepped by AdamW, elementwise

Nothing that one site does moves another: rows, dropout and first values are the same at all of them, so that a site
has the same probe alone and among others. The step falls to 0 along half a cosine; each site and task keeps the
parameters of the epoch that its validation rows like best.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import OutOfRange

Loss = Callable[[list[Tensor], Tensor, torch.Generator | None], Float[Tensor, "site task"]]
"""The mean loss of some rows: of parameters, row numbers, and a generator where there is noise in training."""


def expect_training(epochs: int, batch_size: int, learning_rate: float, weight_decay: float = 0.0) -> None:
    """Refuse what trains nothing."""
    if epochs < 1 or batch_size < 1:
        raise OutOfRange(f"epochs {epochs}, batch_size {batch_size}: expected at least 1 of each")
    if not 0 < learning_rate <= 10:
        raise OutOfRange(f"learning_rate {learning_rate}: expected a positive number, up to 10")
    if not 0 <= weight_decay * learning_rate < 1:
        raise OutOfRange(f"weight_decay {weight_decay}: expected at least 0 and below 1 / learning_rate")


def trained(
    parameters: list[Float[Tensor, "site task *shape"]],
    loss: Loss,
    rows: np.ndarray,
    validation: np.ndarray,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> list[Float[Tensor, "site task *shape"]]:
    """The parameters of each site's and task's best epoch.

    Parameters
    ----------
    parameters
        To begin with.
    loss
        Of some rows.
    rows, validation
        What is stepped on, and what the epoch is chosen by.
    epochs, batch_size, learning_rate, weight_decay
        Of AdamW.
    seed
        Of the order of rows and of noise.
    """
    device = parameters[0].device
    order = np.random.default_rng(seed)
    noise = torch.Generator(device).manual_seed(seed)
    now = [p.detach().clone().requires_grad_() for p in parameters]
    best = [p.detach().clone() for p in now]
    least = torch.full(now[0].shape[:2], torch.inf, dtype=torch.float64, device=device)
    optimizer = torch.optim.AdamW(now, lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        with torch.enable_grad():
            for some in torch.from_numpy(order.permutation(rows)).split(batch_size):
                optimizer.zero_grad()
                loss(now, some.to(device), noise).sum().backward()
                optimizer.step()
        schedule.step()
        with torch.no_grad():
            here = torch.zeros_like(least)
            for some in torch.from_numpy(validation).split(batch_size):
                here += loss(now, some.to(device), None).double() * len(some) / len(validation)
            better = here < least
            least = torch.where(better, here, least)
            best = [
                torch.where(better.reshape(*better.shape, *[1] * (p.ndim - 2)), p.detach(), q)
                for p, q in zip(now, best, strict=True)
            ]
    return best
