"""How sure a number of several prompts is: percentile intervals over prompts drawn anew (PRIMER 3.2.21).

    interval = quantiles of  f(mean_b a_b, mean_b c_b, ...)  over bootstrap samples b of the prompts

Whatever is judged here is a function of means over prompts (a ratio of means, a difference of means, an area under
ratios of means), so a sample is a row of weights and all samples are one matrix product. Prompts are drawn together
with all that was measured on them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from caseback.errors import OutOfRange

Statistic = Callable[..., np.ndarray]


def interval(
    statistic: Statistic, *measured: np.ndarray, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The bootstrap interval of a function of means.

    Parameters
    ----------
    statistic
        From the means of each array, whose last dimension is then the sample, to values of the same last dimension.
    *measured
        Arrays (..., batch) of the same prompts.
    resamples, level
        How many samples, and how much the interval covers.
    seed
        Same seed, same result. It draws the samples.

    Returns
    -------
    The lower and the upper end, shaped as the statistic without the sample.

    Raises
    ------
    OutOfRange
        For fewer than one sample or a level outside (0, 1).

    Examples
    --------
    >>> low, high = interval(lambda mean: mean, np.array([1.0, 2.0, 3.0, 4.0]))
    >>> bool(1 <= low < 2.5 < high <= 4)
    True
    """
    if resamples < 1 or not 0 < level < 1:
        raise OutOfRange(f"resamples={resamples}, level={level}: expected at least 1, and a level between 0 and 1")
    n = measured[0].shape[-1]
    draws = np.random.default_rng(seed).integers(n, size=(resamples, n))
    weights = np.zeros((resamples, n))
    np.add.at(weights, (np.arange(resamples)[:, None], draws), 1 / n)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = statistic(*(np.asarray(part, dtype=np.float64) @ weights.T for part in measured))
    # a sample in which a denominator vanishes says nothing
    values = np.where(np.isfinite(values), values, np.nan)
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2], axis=-1)
    return low, high
