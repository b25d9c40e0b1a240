"""Random subspaces to compare an erasure with: of equal rank, or holding as much variance; none holds any of it.

    Q = orth(V diag(l)^{t/2} V^T G),      C = V diag(l) V^T outside of what is erased,  G Gaussian (d, r)

t = 0 is a uniformly random subspace. What Q removes of the variance, tr Q^T C Q, grows with t from the last principal
components to the first, so that there is a t at which it equals what is asked for; where the first r components hold
less than that, r is as many as hold it. Random directions of a model's states hold little variance, those of a concept
much: equal rank alone is no fair comparison. And a direction that must hold as much as the concept's own would be the
concept's, were that not left out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

STEEPEST = 28.0
"""The largest |t|, and the largest |t| log l_1 / l_r: the directions' sizes before they are made orthonormal are then
within 1e6, so that rounding does not choose them."""


def random_subspaces(
    covariance: Float[Tensor, "place d d"],
    erased: Float[Tensor, "place d r"],
    removed: Float[Tensor, " place"] | None,
    n: int,
    draw: torch.Generator,
) -> Float[Tensor, "draw place d k"]:
    """Orthonormal bases; a draw is the same at all places, as a concept's directions are alike along the stream.

    Parameters
    ----------
    covariance
        Of the states at each place.
    erased
        What is left out: directions of which a place has as many as are not 0.
    removed
        The variance that is to be removed; None for subspaces of the same rank that are uniformly random.
    n
        How many draws.
    draw
        Where they come from.

    Returns
    -------
    Tensor
        0 beyond a place's own rank.

    Examples
    --------
    >>> c = torch.diag(torch.tensor([9.0, 4.0, 1.0, 1.0], dtype=torch.float64))[None]
    >>> e = torch.eye(4, dtype=torch.float64)
    >>> q = random_subspaces(c, e[None, :, :1], torch.tensor([3.0]), 3, torch.Generator().manual_seed(0))
    >>> (q.mT @ c @ q).flatten().round(decimals=6).tolist(), bool((q[:, :, 0].abs() < 1e-9).all())
    ([3.0, 3.0, 3.0], True)
    """
    d = covariance.shape[1]
    own = (erased != 0).any(1).sum(1)
    values, vectors = _outside(covariance, erased)
    ranks = own if removed is None else _enough(values, own, removed)
    most = int(ranks.max())
    g = torch.randn(n, 1, d, most, generator=draw, dtype=torch.float64).to(covariance)
    inside = vectors.mT @ g
    there = (torch.arange(most, device=ranks.device) < ranks[:, None]).to(covariance)[:, None]
    some = values > 0
    if removed is None:
        return vectors @ torch.linalg.qr(inside * some[..., None]).Q * there
    logs = (values / values[:, -1:]).clamp_min(torch.finfo(values.dtype).eps).log()
    low, high = (bound.expand(n, -1) for bound in _tilts(logs, some, ranks))
    q = inside
    for _ in range(50):
        t = (low + high) / 2
        power = torch.where(some, logs * t[..., None] / 2, -torch.inf)
        scale = (power - power.amax(-1, keepdim=True)).exp()
        q = torch.linalg.qr(scale[..., None] * inside).Q * there
        little = (q.square() * values[..., None]).sum((-2, -1)) < removed
        low, high = torch.where(little, t, low), torch.where(little, high, t)
    return vectors @ q


def _tilts(
    logs: Float[Tensor, "place d"], some: Tensor, ranks: Tensor
) -> tuple[Float[Tensor, " place"], Float[Tensor, " place"]]:
    """The least and the largest t at which the directions of a subspace are still told apart."""
    last = logs.shape[1] - 1
    first = last + 1 - some.sum(1)
    own = ranks.clamp_min(1)
    down, up = (
        (logs.gather(1, torch.stack([i, j], 1)).diff(dim=1))[:, 0]
        for i, j in ((first, (first + own - 1).clamp_max(last)), ((last + 1 - own).clamp_min(0), own * 0 + last))
    )
    return -(STEEPEST / down).clamp_max(STEEPEST), (STEEPEST / up).clamp_max(STEEPEST)


def _outside(
    covariance: Float[Tensor, "place d d"], erased: Float[Tensor, "place d r"]
) -> tuple[Float[Tensor, "place d"], Float[Tensor, "place d d"]]:
    """Variances along orthonormal directions, of which those that are left out stand first with a variance of 0."""
    u, s, _ = torch.linalg.svd(erased.to(covariance), full_matrices=False)
    u = u * (s > s[:, :1] * 1e-9)[:, None]
    without = covariance - u @ (u.mT @ covariance)
    without = without - (without @ u) @ u.mT
    size = covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    values, vectors = torch.linalg.eigh((without + without.mT) / 2 - size * (u @ u.mT))
    left_out = values < -size[..., 0] / 2
    least = values[:, -1:] * torch.finfo(values.dtype).eps
    return torch.where(left_out, 0, values.maximum(least)), vectors


def _enough(values: Float[Tensor, "place d"], own: Tensor, removed: Float[Tensor, " place"]) -> Tensor:
    """The fewest components, not fewer than a place's own, that hold what is to be removed, or all that there are."""
    held = values.flip(1).cumsum(1)
    fewest = (held < 1.05 * removed[:, None]).sum(1) + 1  # with some left to choose from
    return torch.where(own > 0, fewest.maximum(own).minimum((values > 0).sum(1)), 0)
