"""Which single features tell a label: four scores, of every feature at every site at once.

    mean_difference     max_c mean(x | c) - min_c mean(x | c)                        Gurnee et al. 2023
    f                   variance between classes / variance within                   scikit-learn's f_classif
    mutual_information  I(y; bin of x), bins that hold like shares of the examples
    l1                  where along a falling L1 penalty the feature enters a logistic regression

They are to be computed on examples that are trained on: features that are chosen with the tested ones in sight find
labels in noise.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from caseback.decode.probes.penalties import scores_of_classes
from caseback.decode.probes.standard import Standard

BINS = 8  # of mutual information
_PENALTIES, _STEPS = 20, 40  # of the L1 path, from the penalty at which nothing enters down to 1/100 of it

Examples = Float[Tensor, "site example d"]
Scores = Float[Tensor, "site d"]


def feature_scores(x: Examples, y: Int[Tensor, " example"], n_classes: int, select: str) -> Scores:
    """How well each feature tells the classes, by one of the scores; more is better."""
    of = {"mean_difference": mean_difference, "f": f_statistic, "mutual_information": mutual_information, "l1": l1_path}
    return of[select](x, y, n_classes)


def mean_difference(x: Examples, y: Int[Tensor, " example"], n_classes: int) -> Scores:
    """The largest difference between two classes' means."""
    means = _shares(x, y, n_classes).mT @ x
    return means.amax(1) - means.amin(1)


def f_statistic(x: Examples, y: Int[Tensor, " example"], n_classes: int) -> Scores:
    """The F statistic of a one-way analysis of variance; 0 for a feature that never varies."""
    centered = x - x.mean(1, keepdim=True)
    counts = torch.bincount(y, minlength=n_classes).to(x)
    means = _shares(x, y, n_classes).mT @ centered
    between = (counts[:, None] * means.square()).sum(1)
    whole = centered.square().sum(1)
    degrees = (x.shape[1] - n_classes) / (n_classes - 1)
    within = (whole - between).clamp_min(torch.finfo(x.dtype).eps * whole)
    return torch.where(whole > 0, degrees * between / within, 0)


def mutual_information(x: Examples, y: Int[Tensor, " example"], n_classes: int) -> Scores:
    """In bits, with each feature in bins between its octiles; equal values share a bin."""
    shares = torch.arange(1, BINS, device=x.device, dtype=x.dtype) / BINS
    # an edge is the value at a place of the sorted ones, so that it is exact
    places = (shares * x.shape[1]).long()
    edges = x.sort(1).values[:, places]  # (site, bin, d)
    bins = torch.zeros_like(x)
    for i in range(BINS - 1):
        bins += x >= edges[:, i, None]
    labels = one_hot(y, n_classes).to(x) / len(y)
    joint = torch.stack([labels.T @ (bins == b).to(x) for b in range(BINS)], 1).double()  # (site, bin, class, d)
    apart = joint.sum(1, keepdim=True) * joint.sum(2, keepdim=True)
    ratio = torch.where(joint > 0, joint / apart.clamp_min(1e-300), 1)
    return (joint * ratio.log2()).sum((1, 2)).to(x)


def l1_path(x: Examples, y: Int[Tensor, " example"], n_classes: int) -> Scores:
    """The share of the L1 path that a feature is part of; between features that enter together, the larger weight.

    Accelerated proximal gradient on standardized features, all sites together.
    """
    standard = Standard.of(x)
    target = one_hot(y, n_classes).to(x)
    target = target[:, 1:] if n_classes == 2 else target
    share = target.mean(0).clamp(0.5 / len(y), 1 - 0.5 / len(y))
    b = (share / (1 - share)).log() if n_classes == 2 else share.log()
    b = b.expand(len(x), -1)
    w = x.new_zeros(len(x), x.shape[2], len(share))
    rate = 1 / ((0.25 if n_classes == 2 else 0.5) * _largest_eigenvalue(standard.gram).clamp_min(1))[:, None, None]

    def gradient(w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        z = scores_of_classes(standard.times(w) + b[:, None])
        rest = (z.softmax(-1)[..., -len(share) :] - target) / len(y)
        return standard.transposed(rest), rest.sum(1)

    most = gradient(w, b)[0].abs().amax((1, 2))[:, None, None]
    entered = x.new_zeros(len(x), x.shape[2])
    for penalty in torch.logspace(0, -2, _PENALTIES).tolist()[1:]:
        ahead, ahead_b, t = w, b, 1.0
        for _ in range(_STEPS):
            slope, slope_b = gradient(ahead, ahead_b)
            new = ahead - rate * slope
            new = new.sign() * (new.abs() - rate * penalty * most).clamp_min(0)
            new_b = ahead_b - rate[:, 0] * slope_b
            following = (1 + (1 + 4 * t * t) ** 0.5) / 2
            ahead = new + (t - 1) / following * (new - w)
            ahead_b = new_b + (t - 1) / following * (new_b - b)
            w, b, t = new, new_b, following
        size = w.abs().amax(-1)
        entered += (size > 0) + 0.5 * size / (1 + size)
    return entered / (_PENALTIES - 1)


def _shares(x: Tensor, y: Tensor, n_classes: int) -> Float[Tensor, "example class"]:
    of = one_hot(y, n_classes).to(x)
    return of / of.sum(0).clamp_min(1)


def _largest_eigenvalue(matrix: Float[Tensor, "site d d"]) -> Float[Tensor, " site"]:
    """From above: the smaller of the trace and the largest sum of a row's sizes."""
    return torch.minimum(matrix.diagonal(dim1=1, dim2=2).sum(-1), matrix.abs().sum(-1).amax(-1))
