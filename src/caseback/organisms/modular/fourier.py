"""How a model adds: its logits as waves of the sum (PRIMER 5.4.17).

For each answer c, the logits of all p² pairs are a function of (a, b). A model that adds by trigonometry has

    logits(a, b, c) = sum over key frequencies k of  alpha_k cos(w_k (a + b - c)),    w_k = 2 pi k / p

so they lie in the span of cos(w_k (a + b)) and sin(w_k (a + b)). Restricted logits keep the mean and the key
frequencies' part of that span, excluded logits remove that part. A model that memorizes is hurt by the first and not by
the second; one that has formed the circuit, the other way round.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import CasebackError


def waves(p: int, frequencies: list[int] | range) -> Float[Tensor, "frequency 2 pair"]:
    """The waves cos and sin of w_k (a + b) over all pairs, each of norm 1."""
    a = torch.arange(p, dtype=torch.float64)
    rates = 2 * torch.pi / p * torch.tensor(list(frequencies), dtype=torch.float64)
    angles = rates[:, None] * (a[:, None] + a).flatten()
    return torch.stack([angles.cos(), angles.sin()], 1) / (p * p / 2) ** 0.5


def centered_waves(p: int) -> Float[Tensor, "frequency 8 pair"]:
    """Of each frequency all that cos and sin of w_k a and w_k b make up to products, without constants, of norm 1."""
    angle = 2 * torch.pi / p * torch.arange(1, p // 2 + 1)[:, None] * torch.arange(p, dtype=torch.float64)
    one = torch.stack([torch.ones_like(angle), angle.cos(), angle.sin()], 1)  # (frequency, wave, number)
    both = torch.einsum("kia,kjb->kijab", one, one).flatten(1, 2).flatten(2)[:, 1:]
    return both / both.norm(dim=-1, keepdim=True)


def energy(logits: Float[Tensor, "pair vocab"], p: int) -> Float[Tensor, " frequency"]:
    """The share of the logits' variance over pairs that each frequency 1 … (p-1)/2 of the sum holds.

    Raises
    ------
    CasebackError
        If there are not p² pairs.
    """
    if len(logits) != p * p:
        raise CasebackError(f"{len(logits)} rows of logits: expected all {p * p} pairs")
    centered = logits.double() - logits.double().mean(0)
    along = torch.einsum("kip,pv->kiv", waves(p, range(1, p // 2 + 1)), centered)
    return along.square().sum((1, 2)) / centered.square().sum()


def key_frequencies(logits: Float[Tensor, "pair vocab"], p: int, share: float = 0.95) -> list[int]:
    """The fewest frequencies that hold ``share`` of what all frequencies of the sum hold together."""
    held = energy(logits, p)
    ranked = held.argsort(descending=True)
    reached = held[ranked].cumsum(0) >= share * held.sum()
    return sorted((ranked[: int(reached.int().argmax()) + 1] + 1).tolist())


def _along(logits: Tensor, p: int, keys: list[int]) -> Tensor:
    basis = waves(p, keys).flatten(0, 1).to(logits)
    return basis.T @ (basis @ logits)


def restricted(logits: Float[Tensor, "pair vocab"], p: int, keys: list[int]) -> Float[Tensor, "pair vocab"]:
    """Each logit's mean and the key frequencies' part."""
    return logits.mean(0) + _along(logits, p, keys)


def excluded(logits: Float[Tensor, "pair vocab"], p: int, keys: list[int]) -> Float[Tensor, "pair vocab"]:
    """Everything but the key frequencies' part."""
    return logits - _along(logits, p, keys)


def loss(logits: Float[Tensor, "pair vocab"], answers: Int[Tensor, " pair"]) -> float:
    """Mean cross-entropy in float64, since a grokked model's is smaller than float32 resolves."""
    return torch.nn.functional.cross_entropy(logits.double(), answers).item()


def gini(values: Float[Tensor, " n"]) -> float:
    """How unequal sizes are: 0 where all are equal, close to 1 where one has everything.

    Examples
    --------
    >>> gini(torch.ones(5)), round(gini(torch.tensor([0.0, 0.0, 0.0, 1.0])), 2)
    (0.0, 0.75)
    """
    sizes = values.abs().sort().values.double()
    n = len(sizes)
    ranks = torch.arange(1, n + 1, dtype=torch.float64)
    return max(0.0, float((2 * ranks - n - 1) @ sizes / (n * sizes.sum())))
