"""States in two dimensions: their principal components or UMAP, beside those of shuffled states.

    center x,   x = U S V^T,   coordinates = (U S)_1..2,   variance kept = (S_1² + S_2²) / sum_i S_i²

    UMAP:   neighbors kept = mean over i of |N_k(x_i) ∩ N_k(y_i)| / k,   N_k(y_i) the k nearest of the place y_i

The control shuffles each dimension over the states by itself, which keeps every dimension's spread and breaks what
they have in common: a plane that keeps no more than the control's shows nothing of how states lie. UMAP (McInnes, Healy
and Melville 2018, arXiv 1802.03426) draws groups also where there are none, and distances between groups mean nothing
in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from sklearn.neighbors import NearestNeighbors

from caseback.errors import CasebackError, OutOfRange
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
    points, shares = _plane(x)
    control, kept_by_control = _plane(_shuffled(x, seed))
    return _beside(points, control, seed=seed, variance_kept=shares, variance_kept_by_control=kept_by_control)


@checked
def umap_plane(states: Any, *, neighbors: int = 15, seed: int = 0) -> xr.Dataset:
    """Places in which states have the neighbors that they have, as UMAP finds them, and those of shuffled states.

    It needs the package ``umap-learn``.

    Parameters
    ----------
    states
        As for ``principal_plane``.
    neighbors
        How many nearest states are to stay near, and are counted; UMAP's own default.
    seed
        Same seed, same result. Of UMAP and of the control's shuffles.

    Returns
    -------
    xr.Dataset
        ``coordinate`` and ``control``, (example, measure); the attributes ``neighbors_kept`` and
        ``neighbors_kept_by_control`` are shares of 1: how many of each state's nearest are among the nearest of its
        place. Places drawn by chance keep neighbors / (examples - 1).

    Raises
    ------
    CasebackError
        As ``principal_plane``, for fewer than two neighbors or as many as there are states, and where ``umap-learn``
        is not installed.

    Examples
    --------
    >>> umap_plane(np.eye(4), neighbors=4)
    Traceback (most recent call last):
    caseback.errors.OutOfRange: neighbors=4 of 4 states: expected 2 or more, and fewer than there are states
    """
    x = _as_rows(states)
    if not 2 <= neighbors < len(x):
        raise OutOfRange(
            f"neighbors={neighbors} of {len(x)} states: expected 2 or more, and fewer than there are states"
        )
    mixed = _shuffled(x, seed)
    points, control = (_umap(rows, neighbors, seed) for rows in (x, mixed))
    shares = _neighbors_kept(x, points, neighbors), _neighbors_kept(mixed, control, neighbors)
    about = {"neighbors": neighbors, "neighbors_kept": shares[0], "neighbors_kept_by_control": shares[1]}
    return _beside(points, control, seed=seed, **about)


def _shuffled(x: np.ndarray, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.stack([draw.permutation(column) for column in x.T], axis=1)


def _beside(points: np.ndarray, control: np.ndarray, **about: Any) -> xr.Dataset:
    dims, coords = ["example", "measure"], {"measure": ["first", "second"]}
    whole = labelled(points, dims, coords, name="coordinate", **about)
    return xr.Dataset({"coordinate": whole, "control": labelled(control, dims, coords)}, attrs=whole.attrs)


def _umap(x: np.ndarray, neighbors: int, seed: int) -> np.ndarray:
    try:
        from umap import UMAP
    except ModuleNotFoundError as missing:
        raise CasebackError(
            f"UMAP needs {missing.name}: install it with `pip install 'caseback[umap]'`, or draw the plane of the "
            "largest variance"
        ) from None
    # with a seed UMAP works in one thread, and warns unless that is asked for
    return UMAP(n_neighbors=neighbors, random_state=seed, n_jobs=1).fit_transform(x).astype(np.float64)


def _neighbors_kept(x: np.ndarray, places: np.ndarray, k: int) -> float:
    nearest = (NearestNeighbors(n_neighbors=k).fit(rows).kneighbors(return_distance=False) for rows in (x, places))
    # each pair (state, neighbor) as one number
    before, after = (rows + len(x) * np.arange(len(x))[:, None] for rows in nearest)
    return float(np.isin(before, after).mean())


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
