"""One direction that tells two classes of activations apart, by each of the ways that CausalGym compares.

mean difference   mean of one class - mean of the other
probe, lda        weights of logistic regression, of Fisher's discriminant
pca, kmeans       the first principal component, the line through two cluster centers: neither sees the classes
random            uniformly drawn
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.model.algebra.rotation import random_rows

WAYS = ("mean difference", "probe", "lda", "pca", "kmeans", "random")


def direction(
    way: str, x: Float[Tensor, "example width"], positive: Bool[Tensor, " example"], *, seed: int = 0
) -> Float[Tensor, "1 width"]:
    """A unit vector, up to its sign.

    Parameters
    ----------
    way
        One of ``WAYS``.
    x
        Activations.
    positive
        Which of them are of one class, the others being of the other.
    seed
        Same seed, same result. It draws the random direction, and where clustering begins.

    Raises
    ------
    CasebackError
        For an unknown way, or where the classes are told apart by nothing (their activations are the same).

    Examples
    --------
    >>> x = torch.tensor([[0.0, 1.0], [0.0, 3.0], [2.0, 1.0], [2.0, 3.0]])
    >>> direction("mean difference", x, torch.tensor([False, False, True, True]))
    tensor([[1., 0.]], dtype=torch.float64)
    """
    if way not in WAYS:
        raise CasebackError(f"{way!r} is not a way to find a direction. {did_you_mean(way, WAYS)}")
    if way == "random":
        return random_rows(1, x.shape[1], seed)
    given, classes = x.detach().cpu().double().numpy(), positive.cpu().numpy()
    with warnings.catch_warnings():
        # too few iterations, or clusters than points: what comes of it is scored all the same
        warnings.simplefilter("ignore", ConvergenceWarning)
        vector = np.asarray(_estimate(way, given, classes, seed), dtype=float).reshape(1, -1)
    length = np.linalg.norm(vector)
    if not np.isfinite(length) or length <= 1e-12 * max(1.0, float(np.abs(given).max())):
        raise CasebackError(f"{way}: the activations of both classes are alike there, so no direction tells them apart")
    return torch.from_numpy(vector / length)


def _estimate(way: str, x: np.ndarray, classes: np.ndarray, seed: int) -> np.ndarray:
    if way == "mean difference":
        return x[classes].mean(0) - x[~classes].mean(0)
    if way == "pca":
        components: Any = (
            PCA(1, random_state=seed).fit(x).components_ if np.ptp(x, 0).any() else np.zeros((1, x.shape[1]))
        )
        return components[0]
    if way == "kmeans":
        starts: Any = 10
        return np.diff(KMeans(2, n_init=starts, random_state=seed).fit(x).cluster_centers_, axis=0)[0]
    if len(x) <= 2:
        raise CasebackError(f"{way}: {len(x)} examples of 2 classes: expected at least 3")
    fitted = LogisticRegression(max_iter=1000) if way == "probe" else LinearDiscriminantAnalysis()
    return fitted.fit(x, classes).coef_[0]
