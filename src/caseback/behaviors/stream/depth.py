"""Where in depth units of a kind are (PRIMER 5.2.20): by layer the share that has the label, with its interval.

share = k / m,    Wilson's interval at 95 %:  (p + z^2 / 2m +- z sqrt(p (1 - p) / m + z^2 / 4 m^2)) / (1 + z^2 / m)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

Z = 1.959964


def depth_profile(layers: Sequence[int], labeled: Bool[np.ndarray, " unit"]) -> dict[str, list[float]]:
    """Shares by layer.

    Parameters
    ----------
    layers
        Each unit's layer.
    labeled
        Which units have the label; see ``kinds.labels``.

    Returns
    -------
    dict[str, list[float]]
        ``layer``, ``depth`` (from 0 at the first to 1 at the last), ``share``, ``low`` and ``high``.

    Examples
    --------
    >>> profile = depth_profile([0, 0, 1, 1], np.array([True, False, False, False]))
    >>> profile["share"], [round(x, 2) for x in profile["high"]]
    ([0.5, 0.0], [0.91, 0.66])
    """
    of = np.asarray(layers)
    every = np.unique(of)
    m = np.array([(of == layer).sum() for layer in every])
    p = np.array([labeled[of == layer].mean() for layer in every])
    middle, half = p + Z**2 / (2 * m), Z * np.sqrt(p * (1 - p) / m + Z**2 / (4 * m**2))
    low, high = ((middle + sign * half) / (1 + Z**2 / m) for sign in (-1, 1))
    depth = (every - every[0]) / max(every[-1] - every[0], 1)
    numbers = {"layer": every, "depth": depth, "share": p, "low": np.maximum(low, 0), "high": high}
    return {name: [float(x) for x in values] for name, values in numbers.items()}
