"""A probe's accuracy beside what it has to be compared with, and how far another draw of groups would move it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor


def table_of(
    measured: dict[str, Tensor],
    labels: np.ndarray,
    test: np.ndarray,
    groups: np.ndarray | None,
    names: list[Any],
    random: np.random.Generator,
    resamples: int,
) -> xr.Dataset:
    """What was measured, by site: see ``linear_probe``."""
    right = measured["right/task"].double().numpy()
    low, high = _interval(right, None if groups is None else groups[test], random, resamples)
    share = np.bincount(labels[~test]) / (~test).sum()
    own = labels[test]
    columns = {
        "accuracy": right.mean(1),
        "low": low,
        "high": high,
        "train_accuracy": measured["train_accuracy"],
        "bits": measured["bits"],
        "shuffled": measured["right/shuffled"].double().mean(1).numpy(),
        "penalty": measured["penalty"].double(),
    }
    if "right/control" in measured:
        columns["control"] = measured["right/control"].double().mean(1).numpy()
        columns["selectivity"] = columns["accuracy"] - columns["control"]
    arrays = {name: ("site", torch.as_tensor(values).cpu().numpy()) for name, values in columns.items()}
    table = xr.Dataset(arrays, {"site": [str(name) for name in names]})
    table["majority"] = (own == share.argmax()).mean()
    table["majority_bits"] = -np.log2(share[own]).mean()
    return table


def _interval(
    right: Float[np.ndarray, "site example"], groups: np.ndarray | None, random: np.random.Generator, resamples: int
) -> tuple[np.ndarray, np.ndarray]:
    """The middle 95 % of accuracies over held-out groups that are drawn again, each draw the same at all sites."""
    of = np.arange(right.shape[1]) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums = np.stack([np.bincount(of, weights=row) for row in right], 1)
    sizes = np.bincount(of)
    draws = random.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=resamples)
    accuracies = (draws @ sums) / (draws @ sizes)[:, None]
    low, high = np.quantile(accuracies, [0.025, 0.975], axis=0)
    return low, high
