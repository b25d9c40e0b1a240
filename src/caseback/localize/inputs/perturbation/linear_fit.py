"""Weighted least squares, with the error that comes of having sampled (PRIMER 3.1.8, 3.1.9).

    b = argmin_b sum_j w_j (y_j - x_j b)^2 + ridge |b|^2 = A^-1 X' W y,    A = X' W X + ridge I
    cov b ~ A^-1 (sum_c g_c g_c') A^-1,    g_c = sum_{j in c} w_j (y_j - x_j b) x_j

The covariance is the robust one ("sandwich"): the model behind y has no noise, other draws of x would have given other
coefficients. Draws that were made together, c, count as one.
"""

from __future__ import annotations

import numpy as np

from caseback.errors import CasebackError


def weighted_fit(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, *, ridge: np.ndarray | float = 0.0, what: str = "the fit"
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients, and A^-1.

    Parameters
    ----------
    x
        (sample, coefficient).
    y, weight
        (sample,).
    ridge
        Penalty on each coefficient's square; one for all or one each.
    what
        Whose fit it is, for the error.

    Raises
    ------
    CasebackError
        Where the samples leave a coefficient undetermined.

    Examples
    --------
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> weighted_fit(x, x @ np.array([2.0, -1.0]), np.ones(3))[0].round(12)
    array([ 2., -1.])
    """
    # rows scaled by sqrt(w), and the ridge as further rows, make it an ordinary least-squares problem for QR
    rooted = np.sqrt(weight)[:, None]
    penalty = np.diag(np.sqrt(np.broadcast_to(ridge, x.shape[1])))
    stacked = np.concatenate([x * rooted, penalty])
    rank = np.linalg.matrix_rank(stacked)
    if rank < x.shape[1]:
        raise CasebackError(
            f"{what}: {len(x)} samples determine {rank} of {x.shape[1]} coefficients: take more samples, or ridge > 0"
        )
    q, r = np.linalg.qr(stacked)
    coefficients = np.linalg.solve(r, q[: len(x)].T @ (y * rooted[:, 0]))
    inverse = np.linalg.inv(r)
    return coefficients, inverse @ inverse.T


def robust_covariance(
    x: np.ndarray, residual: np.ndarray, weight: np.ndarray, inverse: np.ndarray, together: np.ndarray | None = None
) -> np.ndarray:
    """Covariance of the coefficients; ``together`` numbers the draws that belong together, below 0 for no draw at all.

    Examples
    --------
    >>> x = np.ones((4, 1))
    >>> robust_covariance(x, np.array([1.0, -1, 1, -1]), np.ones(4), np.array([[0.25]]))
    array([[0.25]])
    """
    g = (weight * residual)[:, None] * x
    if together is not None:
        drawn = together >= 0
        summed = np.zeros((int(together.max(initial=-1)) + 1, x.shape[1]))
        np.add.at(summed, together[drawn], g[drawn])
        g = summed
    return inverse @ (g.T @ g) @ inverse
