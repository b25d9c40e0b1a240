"""Erasers of random concepts to compare an erasure with: of equal rank, or of equal removed variance.

    r(x) = x - S^{1/2} Q Q^T S^{-1/2} (x - m)          Q = orth(V diag(l)^{t/2} V^T G),  Q^T S^{-1/2} L = 0

This is LEACE for concepts Q of whitened space that have no covariance with the erased one, whose directions are L; S is
the states' covariance, shrunk, and V diag(l) V^T what of it is outside of L there. G is Gaussian: t = 0 is uniformly
random. What is removed of the variance grows with t from the last principal components to the first, so that there is
a t at which it equals what is asked for; where the first r components hold less than twice that, r is as many as do.
Random directions of a model's states hold little variance, those of a concept much: equal rank alone is no fair
comparison. And a direction that must hold as much as the concept's would be the concept's, were that not left out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.erasure.shrinkage import optimal_linear_shrinkage

STEEPEST = 28.0
"""The largest |t|, and the largest |t| log l_1 / l_r: the directions' sizes before they are made orthonormal are then
within 1e6, so that rounding does not choose them."""

Factors = tuple[Float[Tensor, "draw place d k"], Float[Tensor, "draw place k d"]]


def random_erasers(
    covariance: Float[Tensor, "place d d"],
    examples: int,
    left: Float[Tensor, "place d r"],
    removed: Float[Tensor, " place"] | None,
    n: int,
    draw: torch.Generator,
) -> Factors:
    """Left and right factors of projections; a draw is the same at all places.

    Parameters
    ----------
    covariance
        Of the states at each place.
    examples
        How many states it is of, for its shrinkage.
    left
        The erased concept's directions, of which a place has as many as are not 0.
    removed
        The mean square that is to be removed; None for concepts of the same rank that are uniformly random.
    n
        How many draws.
    draw
        Where they come from.

    Returns
    -------
    Tensor, Tensor
        0 beyond a place's own rank.

    Examples
    --------
    >>> c = torch.diag(torch.tensor([9.0, 4.0, 1.0, 1.0], dtype=torch.float64))[None]
    >>> e = torch.eye(4, dtype=torch.float64)[None, :, :1]
    >>> left, right = random_erasers(c, 10**9, e, torch.tensor([1.5]), 3, torch.Generator().manual_seed(0))
    >>> (left.mT @ left * (right @ c @ right.mT)).sum((1, 2, 3)).round(decimals=6).tolist()
    [1.5, 1.5, 1.5]
    >>> bool((right @ e).abs().max() < 1e-9)
    True
    """
    own = (left != 0).any(1).sum(1)
    shrunk = optimal_linear_shrinkage(covariance, examples)
    root, inverse = _roots(shrunk)
    values, vectors = _outside(shrunk, inverse @ left.to(shrunk))
    seen = inverse @ covariance @ inverse  # the identity but for shrinkage
    ranks = own if removed is None else _enough(values, own, removed)
    most = int(ranks.max())
    g = torch.randn(n, 1, covariance.shape[1], most, generator=draw, dtype=torch.float64).to(covariance)
    inside = vectors.mT @ g
    there = (torch.arange(most, device=ranks.device) < ranks[:, None]).to(covariance)[:, None]
    some = values > 0
    if removed is None:
        q = vectors @ torch.linalg.qr(inside * some[..., None]).Q * there
        return root @ q, q.mT @ inverse
    logs = (values / values[:, -1:]).clamp_min(torch.finfo(values.dtype).eps).log()
    low, high = (bound.expand(n, -1) for bound in _tilts(logs, some, ranks))
    q = inside
    for _ in range(50):
        t = (low + high) / 2
        power = torch.where(some, logs * t[..., None] / 2, -torch.inf)
        scale = (power - power.amax(-1, keepdim=True)).exp()
        q = vectors @ torch.linalg.qr(scale[..., None] * inside).Q * there
        change = ((q.mT @ shrunk @ q) * (q.mT @ seen @ q)).sum((-2, -1))
        low, high = torch.where(change < removed, t, low), torch.where(change < removed, high, t)
    return root @ q, q.mT @ inverse


def _roots(s: Float[Tensor, "place d d"]) -> tuple[Float[Tensor, "place d d"], Float[Tensor, "place d d"]]:
    """The root of covariance matrices, and its pseudoinverse."""
    values, vectors = torch.linalg.eigh(s)
    root = torch.where(values > values[:, -1:] * s.shape[-1] * torch.finfo(s.dtype).eps, values, 0).sqrt()
    inverse = torch.where(root > 0, 1 / root, 0)
    return (vectors * root[:, None]) @ vectors.mT, (vectors * inverse[:, None]) @ vectors.mT


def _outside(
    covariance: Float[Tensor, "place d d"], erased: Float[Tensor, "place d r"]
) -> tuple[Float[Tensor, "place d"], Float[Tensor, "place d d"]]:
    """Variances along orthonormal directions; first are those that are left out or where nothing varies, with 0."""
    u, s, _ = torch.linalg.svd(erased, full_matrices=False)
    u = u * (s > s[:, :1] * 1e-9)[:, None]
    without = covariance - u @ (u.mT @ covariance)
    without = without - (without @ u) @ u.mT
    values, vectors = torch.linalg.eigh((without + without.mT) / 2)
    least = values[:, -1:] * values.shape[1] * torch.finfo(values.dtype).eps * 10
    return torch.where(values > least, values, 0), vectors


def _tilts(
    logs: Float[Tensor, "place d"], some: Tensor, ranks: Tensor
) -> tuple[Float[Tensor, " place"], Float[Tensor, " place"]]:
    """The least and the largest t at which the directions of a subspace are still told apart."""
    last = logs.shape[1] - 1
    own = ranks.clamp_min(1)
    first = (last + 1 - some.sum(1)).clamp_max(last)
    down = logs.gather(1, (first + own - 1).clamp_max(last)[:, None]) - logs.gather(1, first[:, None])
    up = logs[:, -1:] - logs.gather(1, (last + 1 - own)[:, None])
    return -(STEEPEST / down[:, 0]).clamp_max(STEEPEST), (STEEPEST / up[:, 0]).clamp_max(STEEPEST)


def _enough(values: Float[Tensor, "place d"], own: Tensor, removed: Float[Tensor, " place"]) -> Tensor:
    """How many directions: the fewest components, not fewer than a place's own, that hold twice what is to be removed.

    Then there is something to choose from. Where so many hold too much at the least, those that just hold it.
    """
    there = (values > 0).sum(1)
    held = values.flip(1).cumsum(1)
    twice, once = (((held < share * removed[:, None]).sum(1) + 1).maximum(own).minimum(there) for share in (2.0, 1.05))
    rest = values.cumsum(1).gather(1, (values.shape[1] - there + twice - 1).clamp_min(0)[:, None])[:, 0]
    return torch.where(own > 0, torch.where(rest < 0.9 * removed, twice, once), 0)
