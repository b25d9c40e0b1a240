"""Orthogonal projections in closed form: out of the first directions that covary, or of the class means' span.

    SAL               P = I - U_k U_k^T,   U_k the first k left singular vectors of C_xz
    mean projection   P = I - Q Q^T,       Q an orthonormal basis of the class means about their mean

The class means' span is all of C_xz's, so mean projection is SAL with every singular vector; it erases all that
linear classifiers of the class can use, as LEACE does, and changes more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caseback.decode.erasure.eraser import Eraser, eraser_of
from caseback.decode.erasure.target_moments import Moments, TargetMoments, moments_of
from caseback.decode.moments import ClassMoments
from caseback.decode.states import States
from caseback.errors import OutOfRange
from caseback.model.registry import technique


@technique(
    entry=("4.2.6",),
    citation="Shao et al. 2023",
    cost="a singular value decomposition of each place's cross-covariance; no model is run",
)
def sal(
    x: ClassMoments | TargetMoments | States | Tensor | np.ndarray | Sequence[Any],
    y: Sequence[Any] | Tensor | np.ndarray | None = None,
    *,
    k: int = 1,
    numeric: bool = False,
    affine: bool = True,
) -> Eraser:
    """Project out the ``k`` directions that covary most with a concept (spectral attribute removal).

    Parameters
    ----------
    x
        Moments of representations, ``States``, or representations (place, example, d), or (example, d) of one place.
    y
        A label for each example; with ``numeric`` numbers (example,) or (example, k). None with moments.
    k
        How many directions; two classes have one.
    numeric
        Whether ``y`` are numbers rather than names of classes.
    affine
        Whether the mean stays where it is.

    Returns
    -------
    Eraser
        With ``checks`` by place.

    Raises
    ------
    CasebackError
        For one class, no more examples than classes, numbers that are not finite, shapes or counts that do not fit.
    OutOfRange
        For ``k`` that is no number from 1 to the width.

    Notes
    -----
    Shao, Ziser & Cohen 2023, beside entry 4.2.6.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(400, 8, generator=draw), torch.randint(2, (400,), generator=draw)
    >>> x[:, 0] += 3 * y
    >>> sal(x, y).proj_left[0, 0].abs().item() > 0.99
    True
    """
    moments = moments_of(x, y, numeric)
    d = moments.mean.shape[1]
    if not 1 <= k <= d:
        raise OutOfRange(f"k {k}: expected 1 to the width {d}")
    return _projected(moments, k, "sal", affine)


@technique(
    entry=("4.2.6",),
    citation="Haghighatkhah et al. 2022",
    cost="a singular value decomposition of each place's class means; no model is run",
)
def mean_projection(
    x: ClassMoments | States | Tensor | np.ndarray | Sequence[Any],
    y: Sequence[Any] | Tensor | np.ndarray | None = None,
    *,
    affine: bool = True,
) -> Eraser:
    """Project out the span of the class means about their mean.

    Parameters
    ----------
    x
        ``ClassMoments``, ``States``, or representations (place, example, d), or (example, d) of one place.
    y
        A label for each example. None with moments.
    affine
        Whether the mean stays where it is.

    Returns
    -------
    Eraser
        With ``checks`` by place.

    Raises
    ------
    CasebackError
        For one class, no more examples than classes, numbers that are not finite, shapes or counts that do not fit.

    Notes
    -----
    Haghighatkhah et al. 2022, beside entry 4.2.6.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(400, 8, generator=draw), torch.randint(3, (400,), generator=draw)
    >>> mean_projection(x, y).rank
    2
    """
    moments = moments_of(x, y, numeric=False)
    return _projected(moments, moments.cross_covariance.shape[2], "mean projection", affine)


def _projected(moments: Moments, k: int, method: str, affine: bool) -> Eraser:
    """Out of the first ``k`` left singular vectors of the cross-covariance that are not zero."""
    u, s, _ = torch.linalg.svd(moments.cross_covariance, full_matrices=False)
    # indicators of classes sum up to 1, so that their last singular value is 0 but for rounding
    u = (u * (s > s[:, :1] * 1e-9)[:, None])[..., :k]
    return eraser_of(moments, u, u.mT, method, affine=affine, k=k)
