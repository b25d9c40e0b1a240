"""Linear probes in closed form: ridge regression on class indicators, mass-mean, and linear discriminant analysis.

    ridge      min mean |Y - x W - b|^2 + penalty |W|^2         Y: +1 for the class and -1 for others, x standardized
    mass-mean  score_c = x mu_c - |mu_c|^2 / 2                  the nearest mean; two classes: along mu_1 - mu_0
    LDA        score_c = x S^-1 mu_c - mu_c S^-1 mu_c / 2 + log share_c,   S = (1 - penalty) S_w + penalty tr(S_w) / d

S_w is the covariance within classes, pooled. Mass-mean is Marks & Tegmark 2023; ridge with two classes and no penalty
has LDA's direction. Each is of features as they are, but for ridge's penalty.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from caseback.decode.probes.standard import Standard, loaded

Fit = tuple[Float[Tensor, "site d k"], Float[Tensor, "site k"]]
"""Weights and intercepts of standardized features; one column where there are two classes."""


def fit_ridge(standard: Standard, y: Int[Tensor, " example"], n_classes: int, penalty: Float[Tensor, " site"]) -> Fit:
    """Least squares on +1 and -1, as scikit-learn's ``RidgeClassifier`` with alpha = n penalty."""
    target = _indicators(y, n_classes, standard) * 2 - 1
    target = target[:, 1:] if n_classes == 2 else target
    mean = target.mean(0)
    cross = standard.transposed((target - mean).expand(len(standard.mean), -1, -1)) / len(y)
    # of features that hang together the shortest weights, nearly, where nothing is penalized
    w = torch.linalg.solve(loaded(standard.gram, penalty.clamp_min(100 * torch.finfo(cross.dtype).eps)), cross)
    return w, mean.expand(len(w), -1)


def fit_mass_mean(
    standard: Standard, y: Int[Tensor, " example"], n_classes: int, penalty: Float[Tensor, " site"]
) -> Fit:
    """The nearest class mean; ``penalty`` plays no part."""
    means = _class_means(standard, y, n_classes)
    w = standard.scale[..., None] * means.mT
    return _one_column(w, -means.square().sum(-1) / 2, n_classes)


def fit_lda(standard: Standard, y: Int[Tensor, " example"], n_classes: int, penalty: Float[Tensor, " site"]) -> Fit:
    """Linear discriminant analysis, as scikit-learn's with ``solver="lsqr", shrinkage=penalty``."""
    n = len(y)
    share = torch.bincount(y, minlength=n_classes).to(standard.gram) / n
    means = _class_means(standard, y, n_classes)
    scale = standard.scale
    whole = standard.gram * scale[..., None] * scale[:, None]
    within = whole - (means.mT * share) @ means
    size = within.diagonal(dim1=1, dim2=2).mean(-1)
    shrunk = loaded((1 - penalty)[:, None, None] * within, penalty * size)
    if bool((penalty == 0).any()):  # features that hang together leave the matrix singular: the shortest solution
        w = torch.linalg.pinv(shrunk, hermitian=True) @ means.mT
    else:
        w = torch.linalg.solve(shrunk, means.mT)
    b = share.log() - (means.mT * w).sum(1) / 2
    return _one_column(scale[..., None] * w, b, n_classes)


def _indicators(y: Tensor, n_classes: int, standard: Standard) -> Float[Tensor, "example class"]:
    return one_hot(y, n_classes).to(standard.gram)


def _class_means(standard: Standard, y: Tensor, n_classes: int) -> Float[Tensor, "site class d"]:
    """About the mean of all; 0 for a class without an example, whose share is 0 too."""
    of = _indicators(y, n_classes, standard)
    return (of / of.sum(0).clamp_min(1)).T @ standard.centered


def _one_column(w: Tensor, b: Tensor, n_classes: int) -> Fit:
    if n_classes > 2:
        return w, b
    return w[..., 1:] - w[..., :1], b[..., 1:] - b[..., :1]
