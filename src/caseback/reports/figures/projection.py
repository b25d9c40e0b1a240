"""States in two dimensions: their principal components, beside those of shuffled states.

    center x,   x = U S V^T,   coordinates = (U S)_1..2,   variance kept = (S_1² + S_2²) / sum_i S_i²

The control shuffles each dimension over the states by itself, which keeps every dimension's spread and breaks what
they have in common: a plane that keeps no more than the control's shows nothing of how states lie.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

from caseback.errors import CasebackError
from caseback.model.arguments import checked
from caseback.model.results import labelled

__all__ = ["principal_plane"]


@checked
def principal_plane(states: Any, *, seed: int = 0) -> xr.Dataset:
    """The plane of the largest variance, and that of the same states shuffled.

    Parameters
    ----------
    states
        (example, d), at least three of each; a tensor, an array or a labeled result. Leading dimensions are joined.
    seed
        Same seed, same result. Of the control's shuffles.

    Returns
    -------
    xr.Dataset
        ``coordinate`` and ``control``, (example, measure); the attributes ``variance_kept`` and
        ``variance_kept_by_control`` are shares of 1, one for each of the two directions.

    Raises
    ------
    CasebackError
        For states that are not finite numbers, too few, or all the same.

    Examples
    --------
    >>> line = np.outer(np.arange(8.0), np.ones(4))
    >>> [round(share, 6) for share in principal_plane(line).attrs["variance_kept"]]
    [1.0, 0.0]
    """
    x = _as_rows(states)
    draw = np.random.default_rng(seed)
    mixed = np.stack([draw.permutation(column) for column in x.T], axis=1)
    points, shares = _plane(x)
    control, kept_by_control = _plane(mixed)
    about = {"seed": seed, "variance_kept": shares, "variance_kept_by_control": kept_by_control}
    dims, coords = ["example", "measure"], {"measure": ["first", "second"]}
    whole = labelled(points, dims, coords, name="coordinate", **about)
    return xr.Dataset({"coordinate": whole, "control": labelled(control, dims, coords)}, attrs=whole.attrs)


def _as_rows(states: Any) -> np.ndarray:
    values = states.values if isinstance(states, xr.DataArray) else states
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    try:
        x = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise CasebackError("these states are no array of numbers: expected (example, d)") from None
    if x.ndim < 2 or min(x.reshape(-1, x.shape[-1]).shape) < 3:
        raise CasebackError(f"states of the shape {x.shape}: expected three or more examples of three or more numbers")
    x = x.reshape(-1, x.shape[-1])
    if not np.isfinite(x).all():
        raise CasebackError("some states are not finite: leave padding out, and run in float32")
    if not np.ptp(x, axis=0).any():
        raise CasebackError("all states are the same: there is nothing to project")
    return x


def _plane(x: np.ndarray) -> tuple[np.ndarray, list[float]]:
    centered = x - x.mean(0)
    u, s, vt = np.linalg.svd(centered, full_matrices=False)
    # the sign that makes each direction's largest weight positive, so that a plane is no draw
    turn = np.sign(vt[np.arange(2), np.abs(vt[:2]).argmax(1)])
    shares = s[:2] ** 2 / (s**2).sum()
    return u[:, :2] * s[:2] * turn, shares.tolist()
