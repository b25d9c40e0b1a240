"""Where in the layers a label becomes readable: the center of gravity of what each layer adds.

    Delta_l = score_l - score_(l - 1),      center = sum_l l Delta_l / sum_l Delta_l,      l = 1 ... L

With all of the gain at one layer it is that layer. Layer 0 is the baseline, the embedding. Tenney et al. 2019.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from caseback.decode.probes.judged import drawn_ratios
from caseback.errors import CasebackError
from caseback.model.registry import technique


@technique(
    entry=("4.1.6",),
    citation="Tenney et al. 2019",
    cost="sums over a probe's table; nothing is fitted",
)
def layer_profile(table: xr.Dataset, *, resamples: int = 1000, seed: int = 0) -> xr.Dataset:
    """Say at which layer accuracy arises, from the table of a probe at all layers.

    Parameters
    ----------
    table
        Of ``linear_probe`` or ``attention_probe``, its sites the layers in order, the embedding first.
    resamples
        Resamples of the held-out groups for the 95 % interval.
    seed
        Same seed, same result.

    Returns
    -------
    xr.Dataset
        ``center`` with ``low`` and ``high``, in places among the sites from 0 on; ``gain``, the accuracy of the last
        beyond the first; ``delta`` (site), what each site adds to the one before. ``center`` is NaN where there is no
        gain to divide by, and its interval is of those resamples that have one, whose share is ``with_gain``.

    Raises
    ------
    CasebackError
        For a table without ``right``, or of one site.

    Notes
    -----
    Entry 4.1.6: the expected layer of Tenney et al. 2019, who score probes of a mix of all layers up to l. Here each
    probe sees its layer alone, so that a label which later layers no longer carry has a negative Delta there: compare
    ``gain`` with the largest accuracy before reading ``center``.

    Examples
    --------
    >>> import torch
    >>> from caseback.decode.probes import linear_probe
    >>> draw = torch.Generator().manual_seed(0)
    >>> x = torch.randn(1, 400, 8, generator=draw).repeat(5, 1, 1)
    >>> y = torch.rand(400, generator=draw) > 0.5
    >>> x[3:, :, 0] += 8 * y  # written by the third layer
    >>> round(float(layer_profile(linear_probe(x, y.tolist()).table).center), 1)
    3.0
    """
    if "right" not in table or table["right"].dims != ("site", "example"):
        raise CasebackError("the table has no right answers by site and example: expected that of linear_probe")
    right = table["right"].values
    if len(right) < 2:
        raise CasebackError("the table has one site: expected the embedding and the layers after it")
    groups = table["group"].values if "group" in table.coords else None
    random = np.random.default_rng(seed)
    own = _center(right.mean(1)[None])[0]
    drawn = _center(drawn_ratios(right, np.ones(right.shape[1]), groups, random, resamples))
    defined = np.isfinite(drawn)
    low, high = np.quantile(drawn[defined], [0.025, 0.975]) if defined.any() else (np.nan, np.nan)
    accuracy = right.mean(1)
    profile = xr.Dataset(
        {"center": own, "low": low, "high": high, "gain": accuracy[-1] - accuracy[0], "with_gain": defined.mean()},
        attrs={"seed": seed, "resamples": resamples},
    )
    profile["delta"] = ("site", np.diff(accuracy))
    return profile.assign_coords(site=table["site"].values[1:])


def _center(accuracy: np.ndarray) -> np.ndarray:
    """Of each row of accuracies by layer; NaN where the last is not above the first."""
    delta = np.diff(accuracy, axis=1)
    gain = accuracy[:, -1] - accuracy[:, 0]
    layer = np.arange(1, accuracy.shape[1])
    return np.where(gain > 0, delta @ layer / np.where(gain > 0, gain, 1), np.nan)
