"""A probe's accuracy beside what it has to be compared with, and how far another draw of groups would move it.

    interval: the middle 95 % of  sum over drawn groups of what they have right / sum of their sizes

The same groups are drawn at all sites, so that sites can be compared.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.decode.probes.setting import Setting
from caseback.errors import OutOfRange


def table_of(
    measured: dict[str, Tensor], setting: Setting, random: np.random.Generator, resamples: int, extra: str = ""
) -> xr.Dataset:
    """What was measured, by site and, with ``extra``, another dimension.

    Parameters
    ----------
    measured
        ``right/task`` and ``right/shuffled``, with types ``right/control``: (site, held-out example), or
        (site, extra, held-out example). Whatever else becomes a column of its name.
    setting
        Where the labels and the groups are.
    random
        Draws the groups.
    resamples
        How often.
    extra
        The name of the other dimension.
    """
    dims = ("site", extra) if extra else ("site",)
    right = measured["right/task"].cpu().double().numpy()
    low, high = interval(right, np.ones(right.shape[-1]), setting.held_groups, random, resamples)
    columns = {
        "accuracy": right.mean(-1),
        "low": low,
        "high": high,
        "shuffled": measured["right/shuffled"].double().mean(-1),
    }
    if "right/control" in measured:
        columns["control"] = measured["right/control"].double().mean(-1).cpu().numpy()
        columns["selectivity"] = columns["accuracy"] - columns["control"]
    columns |= {name: values for name, values in measured.items() if "/" not in name}
    arrays = {name: (dims, torch.as_tensor(values).cpu().double().numpy()) for name, values in columns.items()}
    table = xr.Dataset(arrays, {"site": setting.names, "example": np.flatnonzero(setting.test)})
    table["right"] = (*dims, "example"), measured["right/task"].cpu().numpy()
    if setting.groups is not None:
        table = table.assign_coords(group=("example", setting.held_groups))
    return with_majority(table, setting)


def with_majority(table: xr.Dataset, setting: Setting) -> xr.Dataset:
    """A constant guess beside what probes reach: the commonest class, and the bits of the classes' shares."""
    share = np.bincount(setting.labels[~setting.test]) / (~setting.test).sum()
    own = setting.labels[setting.test]
    table["majority"] = (own == share.argmax()).mean()
    table["majority_bits"] = -np.log2(share[own]).mean()
    table.attrs |= setting.attrs()
    return table


def interval(
    values: Float[np.ndarray, "*site example"] | Bool[np.ndarray, "*site example"],
    sizes: Float[np.ndarray, " example"],
    groups: np.ndarray | None,
    random: np.random.Generator,
    resamples: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The middle 95 % of sum of values / sum of sizes when groups are drawn again."""
    ratios = drawn_ratios(values, sizes, groups, random, resamples)
    low, high = np.quantile(ratios, [0.025, 0.975], axis=0)
    return low, high


def drawn_ratios(
    values: Float[np.ndarray, "*site example"] | Bool[np.ndarray, "*site example"],
    sizes: Float[np.ndarray, " example"],
    groups: np.ndarray | None,
    random: np.random.Generator,
    resamples: int,
) -> Float[np.ndarray, "resample *site"]:
    """Sum of values / sum of sizes, in draws of groups that are the same at all sites."""
    if resamples < 1:
        raise OutOfRange(f"resamples {resamples}: expected at least 1")
    of = np.arange(values.shape[-1]) if groups is None else np.unique(groups, return_inverse=True)[1]
    flat = values.reshape(-1, values.shape[-1])
    sums = np.stack([np.bincount(of, weights=row) for row in flat], 1)
    whole = np.bincount(of, weights=sizes)
    draws = random.multinomial(len(whole), np.full(len(whole), 1 / len(whole)), size=resamples)
    return ((draws @ sums) / (draws @ whole)[:, None]).reshape(resamples, *values.shape[:-1])
