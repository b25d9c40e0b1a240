"""LEACE: the smallest affine change of a representation after which no linear classifier of a concept beats a constant.

    r(x) = x - W^+ U U^T W (x - m)          W = (C_xx^{1/2})^+,   U the left singular vectors of W C_xz

Cov(r(x), z) = 0, and of all affine maps with that it has the least E|r(x) - x|^2. ``"orth"`` takes W = I: the
orthogonal projection that does. With A = W^+ U the trace of the covariance falls from tr C to tr C - |A|^2, for a
shrunk C as for the sample's own, so that a constraint that it must not grow has nothing to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.erasure.eraser import Eraser, eraser_of, warn_of_rest
from caseback.decode.erasure.shrinkage import optimal_linear_shrinkage
from caseback.decode.erasure.target_moments import Moments, TargetMoments, moments_of
from caseback.decode.moments import ClassMoments
from caseback.decode.states import States
from caseback.errors import OutOfRange
from caseback.model.registry import technique


@technique(
    entry=("4.2.6",),
    citation="Belrose et al. 2023",
    cost="an eigendecomposition of each place's covariance; no model is run",
)
def leace(
    x: ClassMoments | TargetMoments | States | Tensor | np.ndarray | Sequence[Any],
    y: Sequence[Any] | Tensor | np.ndarray | None = None,
    *,
    method: Literal["leace", "orth"] = "leace",
    numeric: bool = False,
    affine: bool = True,
    shrinkage: bool = True,
    svd_tol: float = 0.01,
) -> Eraser:
    """Erase a concept from representations of many places at once, with the least change of them.

    Parameters
    ----------
    x
        Moments of representations (``class_moments``, ``target_moments``; those of parts of a corpus add up), or
        ``States``, or representations (place, example, d), or (example, d) of one place.
    y
        A label for each example; with ``numeric`` numbers (example,) or (example, k). None with moments.
    method
        ``"leace"``, or ``"orth"`` for the orthogonal projection, which needs no covariance and changes more.
    numeric
        Whether ``y`` are numbers rather than names of classes.
    affine
        Whether the mean stays where it is.
    shrinkage
        Whether the covariance is shrunk toward the mean variance, which few examples need; LEACE is exact without.
    svd_tol
        Singular values of the whitened cross-covariance up to this are left. With ``"orth"`` it has the unit of the
        representation.

    Returns
    -------
    Eraser
        With ``checks`` by place.

    Raises
    ------
    CasebackError
        For one class, no more examples than classes, numbers that are not finite, shapes or counts that do not fit.
    OutOfRange
        For ``svd_tol`` that is not positive.

    Notes
    -----
    Entry 4.2.6: Belrose et al. 2023, whose package (concept-erasure) has these options and defaults. Its
    ``constrain_cov_trace`` is not among them here: the trace cannot grow, see above.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(400, 8, generator=draw), torch.randint(2, (400,), generator=draw)
    >>> x[:, 0] += 3 * y
    >>> eraser = leace(x, y)
    >>> eraser
    Eraser(leace at 0; rank 1 of 8, removes at most 29.9% of the variance)
    >>> bool((x[y == 1].mean(0) - x[y == 0].mean(0)).norm() > 2.5)
    True
    >>> r = eraser.apply(x)
    >>> bool((r[y == 1].mean(0) - r[y == 0].mean(0)).norm() < 1e-5)
    True
    """
    if not 0 < svd_tol < float("inf"):
        raise OutOfRange(f"svd_tol {svd_tol}: expected a positive number")
    moments = moments_of(x, y, numeric)
    left, right = _factors(moments, method, shrinkage, svd_tol)
    options = {"shrinkage": shrinkage if method == "leace" else None, "svd_tol": svd_tol}
    eraser = eraser_of(moments, left, right, method, affine=affine, **options)
    warn_of_rest(eraser.names, eraser.checks["left"], svd_tol)
    return eraser


def _factors(
    moments: Moments, method: str, shrinkage: bool, svd_tol: float
) -> tuple[Float[Tensor, "place d r"], Float[Tensor, "place r d"]]:
    unbiased = moments.n / (moments.n - 1)
    cross = moments.cross_covariance * unbiased
    if method == "orth":
        u = _columns(cross, svd_tol)
        return u, u.mT
    covariance = moments.covariance
    sigma = optimal_linear_shrinkage(covariance, moments.n) if shrinkage else covariance * unbiased
    values, vectors = torch.linalg.eigh(sigma)
    least = values[:, -1:] * sigma.shape[-1] * torch.finfo(sigma.dtype).eps
    root = torch.where(values > least, values, 0).sqrt()
    inverse = torch.where(root > 0, 1 / root, 0)
    # whitened and unwhitened along the eigenvectors: W itself, (d, d), is not formed
    u = _columns(inverse[..., None] * (vectors.mT @ cross), svd_tol)
    return vectors @ (root[..., None] * u), (inverse[..., None] * u).mT @ vectors.mT


def _columns(matrix: Float[Tensor, "place d k"], tolerance: float) -> Float[Tensor, "place d r"]:
    """Left singular vectors of the singular values above a tolerance, 0 for the others."""
    u, s, _ = torch.linalg.svd(matrix, full_matrices=False)
    return u * (s > tolerance)[:, None]
