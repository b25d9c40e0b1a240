"""Where in the layers a label becomes readable: the center of gravity of what each layer adds.

    best_l = max of accuracy up to layer l,  Delta_l = best_l - best_(l - 1),  center = sum_l l Delta_l / sum_l Delta_l

Layer 0 is the baseline, the embedding. With all of the gain at one layer the center is that layer. Tenney et al. 2019.
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
def layer_profile(table: xr.Dataset, *, cumulative: bool = True, resamples: int = 1000, seed: int = 0) -> xr.Dataset:
    """Say at which layer accuracy arises, from the table of a probe at all layers.

    Parameters
    ----------
    table
        Of ``linear_probe`` or ``attention_probe``, its sites the layers in order, the embedding first.
    cumulative
        Let a layer have at least the accuracy of those before it, as for a probe that sees them all; without it
        Delta is the plain difference, negative where a layer no longer tells what the one before did.
    resamples
        Resamples of the held-out groups for the 95 % interval.
    seed
        Same seed, same result.

    Returns
    -------
    xr.Dataset
        ``center`` with ``low`` and ``high``, in places among the sites from 0 on; ``gain``, the sum of ``delta``
        (site), what each site adds. ``center`` is NaN where there is no gain to divide by, and its interval is of those
        resamples that have one, whose share is ``with_gain``.

    Raises
    ------
    CasebackError
        For a table without ``right``, or of one site.

    Notes
    -----
    Entry 4.1.6: the expected layer of Tenney et al. 2019, whose score of layer l is that of a probe of a mix of layers
    0 to l. Here each probe sees its layer alone, and the best one up to l stands for that mix. Where layers differ by
    no more than chance the best one is chosen by chance too: read ``gain`` first.

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
    own, delta = _center(right.mean(1)[None], cumulative)
    drawn, _ = _center(drawn_ratios(right, np.ones(right.shape[1]), groups, random, resamples), cumulative)
    defined = np.isfinite(drawn)
    low, high = np.quantile(drawn[defined], [0.025, 0.975]) if defined.any() else (np.nan, np.nan)
    profile = xr.Dataset(
        {"center": own[0], "low": low, "high": high, "gain": delta.sum(), "with_gain": defined.mean()},
        attrs={"cumulative": int(cumulative), "seed": seed, "resamples": resamples},
    )
    profile["delta"] = ("site", delta[0])
    return profile.assign_coords(site=table["site"].values[1:])


def _center(accuracy: np.ndarray, cumulative: bool) -> tuple[np.ndarray, np.ndarray]:
    """Of each row of accuracies by layer, the center, NaN without a gain, and what each layer adds."""
    delta = np.diff(np.maximum.accumulate(accuracy, axis=1) if cumulative else accuracy, axis=1)
    gain = delta.sum(1)
    layer = np.arange(1, accuracy.shape[1])
    return np.where(gain > 0, delta @ layer / np.where(gain > 0, gain, 1), np.nan), delta
