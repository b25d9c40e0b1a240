"""The ways to find a direction, at all places at once: each gives a read-out w (place, d), x . w higher at class 1.

    mean_difference    m1 - m0
    lda                C_w^-1 (m1 - m0)          C_w shrunk towards its mean variance
    pca                first principal component of x, or of the pairs' differences (not centered: their mean is what
                       is looked for)
    kmeans             the line through two cluster centers; does not see the classes
    logistic, ridge    the normal of a linear probe
    random             uniformly drawn

PCA and k-means find a line; which way it points is fixed by the classes' means.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.decode.moments import ClassMoments
from caseback.decode.probes.closed_forms import fit_ridge
from caseback.decode.probes.logistic import fit_logistic
from caseback.decode.probes.standard import Standard, loaded
from caseback.errors import CasebackError
from caseback.model.algebra.symmetric_product import symmetric_product

WAYS = ("mean_difference", "lda", "logistic", "ridge", "pca", "kmeans", "random")
OF_MOMENTS = ("mean_difference", "lda")
"""Those that need the moments of the classes alone."""
_STARTS, _ROUNDS = 10, 100


def closed_read_out(way: str, moments: ClassMoments, shrinkage: float) -> Float[Tensor, "place d"]:
    """A read-out vector at each place that needs the moments of two classes alone.

    Raises
    ------
    CasebackError
        For LDA's covariance where it is singular.
    """
    difference = moments.means[:, 1] - moments.means[:, 0]
    if way == "mean_difference":
        return difference
    covariance = shrunk(moments.within, shrinkage)
    if not shrinkage and bool(singular(covariance).any()):
        place = moments.places[int(singular(covariance).nonzero()[0, 0])]
        raise CasebackError(
            f"the covariance within classes at {place} is singular ({int(moments.n)} examples of width "
            f"{difference.shape[1]}): give more examples, or shrinkage above 0"
        )
    return torch.linalg.solve(covariance, difference)


def singular(covariance: Float[Tensor, "*place d d"]) -> Bool[Tensor, "*place"]:
    """Which cannot be divided by, but for rounding."""
    values = torch.linalg.eigvalsh(covariance)
    return values[..., 0] <= values[..., -1] * values.shape[-1] * torch.finfo(values.dtype).eps


def read_out(
    way: str,
    x: Float[Tensor, "place example d"],
    positive: Bool[Tensor, " example"],
    moments: ClassMoments,
    *,
    pairs: tuple[Tensor, Tensor] | None,
    shrinkage: float,
    penalty: float,
    seed: int,
) -> Float[Tensor, "place d"]:
    """A read-out vector at each place, of any length."""
    difference = moments.means[:, 1] - moments.means[:, 0]
    if way in OF_MOMENTS:
        return closed_read_out(way, moments, shrinkage)
    if way in ("logistic", "ridge"):
        standard, y = Standard.of(x), positive.long()
        amount = x.new_full((len(x),), penalty)
        fitted = fit_logistic(standard, y, 2, l2=amount) if way == "logistic" else fit_ridge(standard, y, 2, amount)
        return standard.folded(*fitted)[0][..., 0].double()
    if way == "random":
        draw = torch.Generator().manual_seed(seed)
        return torch.randn(x.shape[0], x.shape[2], generator=draw, dtype=torch.float64).to(x.device)
    line = two_centers(x.double(), seed) if way == "kmeans" else principal(x.double(), pairs)
    return line * (line * difference).sum(1, keepdim=True).sign()


def shrunk(covariance: Float[Tensor, "place d d"], amount: float) -> Float[Tensor, "place d d"]:
    """(1 - amount) C + amount mean(diag C) I."""
    variance = covariance.diagonal(dim1=1, dim2=2).mean(1)
    return loaded((1 - amount) * covariance, amount * variance)


def principal(
    x: Float[Tensor, "place example d"], pairs: tuple[Tensor, Tensor] | None = None
) -> Float[Tensor, "place d"]:
    """The first principal component of examples about their mean, or of pairs' differences about zero."""
    about = x - x.mean(1, keepdim=True) if pairs is None else x[:, pairs[1]] - x[:, pairs[0]]
    n, d = about.shape[1:]
    if n < d:  # the eigenvector of the smaller product, taken through the data
        return (torch.linalg.eigh(about @ about.mT)[1][:, None, :, -1] @ about)[:, 0]
    return torch.linalg.eigh(symmetric_product(about))[1][..., -1]


def two_centers(x: Float[Tensor, "place example d"], seed: int) -> Float[Tensor, "place d"]:
    """The difference of two cluster centers (Lloyd's rounds, the best of ten starts) at each place."""
    draw = torch.Generator().manual_seed(seed)
    places, n, d = x.shape
    start = torch.stack([torch.randperm(n, generator=draw)[:2] for _ in range(_STARTS)]).to(x.device)
    centers = x[:, start]  # (place, start, 2, d)
    squares = x.square().sum(2)
    side = torch.zeros(places, _STARTS, n, dtype=torch.bool, device=x.device)
    for round_ in range(_ROUNDS):
        # |x - b|^2 < |x - a|^2 is linear in x
        across = centers[:, :, 1] - centers[:, :, 0]
        middle = (centers.square().sum(3).diff(dim=2) / 2)[..., 0]
        nearer = across @ x.mT > middle[..., None]
        if round_ and bool((nearer == side).all()):
            break
        side = nearer
        weight = torch.stack([~side, side], 2).to(x)  # (place, start, 2, example)
        sums, counts = weight.flatten(1, 2) @ x, weight.sum(3)
        new = sums.view(places, _STARTS, 2, d) / counts.clamp_min(1)[..., None]
        centers = torch.where(counts[..., None] > 0, new, centers)
    weight = torch.stack([~side, side], 2).to(x)
    inner = (weight.sum(3) * centers.square().sum(3)).sum(2)
    cost = squares.sum(1, keepdim=True) - inner  # of centers that are means
    best = cost.argmin(1)
    chosen = centers[torch.arange(places, device=x.device), best]
    return chosen[:, 1] - chosen[:, 0]
