"""Does a probe that says 80 % have it right four times in five? And one number that mends it where it does not.

    ECE = sum_b  n_b / n  |accuracy in b - mean confidence in b|        b: bins of confidence of equal width
    T   = argmin_T  mean -log softmax(z / T)_y                          z: scores of examples not fitted to

The expected calibration error has a floor: with n examples a perfectly calibrated probe has about sqrt(bins / n) of it.
Temperatures are Guo et al. 2017's; dividing scores by one changes no prediction.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BINS = 15  # Guo et al. 2017
_HALVINGS = 50


def calibration_error(
    confidence: Float[Tensor, "site example"], right: Bool[Tensor, "site example"]
) -> Float[Tensor, " site"]:
    """The expected calibration error of predictions with these probabilities.

    Examples
    --------
    >>> sure = torch.full((1, 10), 0.9, dtype=torch.float64)
    >>> calibration_error(sure, torch.arange(10)[None] < 6).round(decimals=6).tolist()
    [0.3]
    """
    bin_of = (confidence * BINS).ceil().clamp(1, BINS).long() - 1
    gap = (right.double() - confidence.double()) / confidence.shape[1]
    sums = torch.zeros(len(gap), BINS, dtype=torch.float64, device=gap.device).scatter_add_(1, bin_of, gap)
    return sums.abs().sum(1)


def inverse_temperature(
    scores: Float[Tensor, "site example class"], y: Int[Tensor, " example"]
) -> Float[Tensor, " site"]:
    """1 / T at each site, between e^-10 and e^10.

    The loss is convex in 1 / T; its slope is the mean of sum_c p_c z_c - z_y.
    """
    own = scores.gather(-1, y.expand(len(scores), -1)[..., None])
    above = scores - own
    low, high = scores.new_full((len(scores),), -10.0), scores.new_full((len(scores),), 10.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        p = (above * middle.exp()[:, None, None]).softmax(-1)
        rising = (p * above).sum((1, 2)) > 0
        low, high = torch.where(rising, low, middle), torch.where(rising, middle, high)
    return ((low + high) / 2).exp()
