"""Toy models of superposition: more features than dimensions, stored where they are rare (entry 4.2.12).

    x' = ReLU(W^T W x + b)           W (m, n)           L = E sum_i I_i (x_i - x'_i)^2
    x_i = 0 with probability S, else uniform on [0, 1]

    D_i = |W_i|^2 / sum_j (w_i . W_j)^2,  w_i = W_i / |W_i|        the share of a dimension that feature i has

S is the sparsity and I the importance. Dense features (S = 0) leave the m most important ones, each with a dimension of
its own, as PCA would; sparse ones share: antipodal pairs have D = 1/2 each, the five corners of a pentagon in a plane
2/5. Without the ReLU nothing is ever shared. Elhage et al. 2022.

All models (sparsities x importances x seeds) are trained together: one batched product a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import ArgumentError, OutOfRange
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import in_float64
from caseback.model.registry import technique
from caseback.model.results import labelled


@technique(
    entry=("4.2.12",),
    citation="Elhage et al. 2022",
    cost="steps x batch products of n x m for each sparsity and seed, no model is run",
)
def toy_superposition(
    n_features: int,
    d_model: int,
    *,
    sparsity: Sequence[float] = (0.0, 0.7, 0.9, 0.97, 0.99),
    importance: Sequence[float] | float = 0.9,
    n_seeds: int = 1,
    linear: bool = False,
    steps: int = 5000,
    batch_size: int = 1024,
    lr: float = 1e-3,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Train toy models of superposition, one for each sparsity and seed, in one batched call.

    Parameters
    ----------
    n_features
        n, how many features.
    d_model
        m, in how many dimensions they are stored.
    sparsity
        S, the probabilities with which features are 0; a model for each.
    importance
        I_i of each feature, or a factor from each feature to the next; the paper's .9.
    n_seeds
        Models of each sparsity; take the one with the lowest ``loss``, some stay in local minima.
    linear
        Leave the ReLU out.
    steps, batch_size, lr
        Of Adam, whose rate falls to 0 as a half cosine.
    seed
        Same seed, same result.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        By ``sparsity`` and ``draw`` (the seeds): ``W`` (feature, d_model), one row a feature, ``b`` (feature,),
        ``norm`` (feature,) |W_i|, ``dimensionality`` (feature,) D_i, 0 for a feature that is not stored,
        ``interference`` (feature,) sum_{j != i} (w_i W_j)^2, ``stored``, how many norms are above 1/2, and ``loss``,
        the mean over the last tenth of the steps.

    Raises
    ------
    OutOfRange
        For sizes below 1, sparsities outside [0, 1), a rate that is not above 0.
    ArgumentError
        For importances of another number than the features, or negative ones.

    Notes
    -----
    Entry 4.2.12: Elhage et al. 2022. D_i sums to m at most; it does in tight frames.

    Examples
    --------
    >>> dense = toy_superposition(4, 2, sparsity=[0.0], importance=0.6, steps=1500, batch_size=256, lr=1e-2)
    >>> dense.norm.values.squeeze().round(1).tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    weights = np.asarray(importance, dtype=float)
    weights = weights ** np.arange(n_features) if weights.ndim == 0 else weights
    shape = len(_expect_sparsities(sparsity)), n_seeds
    if min(n_features, d_model, n_seeds, steps, batch_size) < 1 or lr <= 0:
        raise OutOfRange("n_features, d_model, n_seeds, steps, batch_size: expected 1 or more; lr above 0")
    if weights.shape != (n_features,):
        raise ArgumentError(f"{len(weights)} importances for {n_features} features: expected one each, or a factor")
    models = torch.tensor(list(sparsity), dtype=torch.float64).repeat_interleave(n_seeds)
    rows = torch.from_numpy(weights).expand(len(models), -1)
    how = {"steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed, "linear": linear, "progress": progress}
    numbers = _trained(models, rows, d_model, **how)
    facts = {"importance": weights.tolist(), **how, "n_seeds": n_seeds}
    del facts["progress"]
    coords = {"sparsity": list(sparsity), "draw": np.arange(n_seeds)}
    return _as_dataset(numbers, shape, ["sparsity", "draw"], coords, toy_superposition, facts)


@technique(
    entry=("4.2.12",),
    citation="Elhage et al. 2022",
    cost="steps x batch products of n x m for each sparsity, importance and seed, no model is run",
)
def superposition_phases(
    n_features: int = 2,
    d_model: int = 1,
    *,
    sparsity: Sequence[float] | None = None,
    importance: Sequence[float] | None = None,
    n_seeds: int = 8,
    steps: int = 3000,
    batch_size: int = 1024,
    lr: float = 3e-3,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """The phase picture: is the last feature left out, stored alone, or stored in superposition?

    Parameters
    ----------
    n_features, d_model
        As in ``toy_superposition``; the paper's are 2 in 1 and 3 in 2.
    sparsity
        S of all features; by default ten values, 1 - S falling from 1 to 1/100 in equal factors.
    importance
        I of the last feature, the others' being 1; by default ten values from .1 to 10 in equal factors.
    n_seeds
        Models of each cell, of which the one with the lowest loss is kept: half of the starts have both features on one
        side of the line, and one of the two is then lost.
    steps, batch_size, lr, seed, progress
        As in ``toy_superposition``.

    Returns
    -------
    xr.Dataset
        By ``sparsity`` and ``importance``: ``last_norm``, |W_n|, and ``last_interference``, sum_{j != n} (w_n W_j)^2,
        of the last feature: 0 and 0 where it is left out, 1 and 0 where it has a dimension of its own, 1 and 1 where it
        is the opposite of another; ``phase`` names these; and all that ``toy_superposition`` gives.

    Raises
    ------
    OutOfRange
        As ``toy_superposition``, and for importances that are not above 0.

    Examples
    --------
    >>> picture = superposition_phases(sparsity=[0.0, 0.98], importance=[0.3, 3.0], steps=1500, batch_size=512, lr=1e-2)
    >>> picture.phase.values.tolist()
    [['left out', 'alone'], ['superposed', 'superposed']]
    """
    rare = list(1 - 10.0 ** np.linspace(0, -2, 10)) if sparsity is None else list(sparsity)
    matters = list(10.0 ** np.linspace(-1, 1, 10)) if importance is None else list(importance)
    _expect_sparsities(rare)
    if not matters or not min(matters) > 0 or not max(matters) < np.inf:
        raise OutOfRange(f"importance {importance}: expected finite numbers above 0, one at least")
    if min(n_features, d_model, n_seeds, steps, batch_size) < 1 or lr <= 0:
        raise OutOfRange("n_features, d_model, n_seeds, steps, batch_size: expected 1 or more; lr above 0")
    cells = torch.cartesian_prod(
        torch.tensor(rare).double(), torch.tensor(matters).double(), torch.arange(n_seeds).double()
    )
    rows = torch.ones(len(cells), n_features, dtype=torch.float64)
    rows[:, -1] = cells[:, 1]
    how = {"steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed, "linear": False, "progress": progress}
    numbers = _trained(cells[:, 0], rows, d_model, **how)
    shape = len(rare), len(matters)
    best = numbers["loss"].reshape(-1, n_seeds).argmin(1) + torch.arange(shape[0] * shape[1]) * n_seeds
    facts = {name: value for name, value in how.items() if name != "progress"} | {"n_seeds": n_seeds}
    coords = {"sparsity": rare, "importance": matters}
    kept_numbers = {name: value[best] for name, value in numbers.items()}
    table = _as_dataset(kept_numbers, shape, ["sparsity", "importance"], coords, superposition_phases, facts)
    norm, interference = table.norm[..., -1], table.interference[..., -1]
    phase = np.where(norm < 0.5, "left out", np.where(interference < 0.5, "alone", "superposed"))
    return table.assign(last_norm=norm, last_interference=interference, phase=(["sparsity", "importance"], phase))


def dimensionality(W: Float[Tensor, "*model feature d_model"]) -> Float[Tensor, "*model feature"]:
    """D_i, the share of a dimension that each feature has; 0 for a feature that is not stored.

    Examples
    --------
    >>> angles = torch.arange(5) * 2 * torch.pi / 5
    >>> pentagon = torch.stack([angles.cos(), angles.sin()], 1)
    >>> [round(x, 5) for x in dimensionality(pentagon).tolist()]
    [0.4, 0.4, 0.4, 0.4, 0.4]
    """
    square = W.square().sum(-1)
    others = (W @ W.mT).square().sum(-1)  # |W_i|^2 times the denominator
    return torch.where(square > 1e-6, square.square() / others.clamp_min(1e-30), 0)


def _expect_sparsities(sparsity: Sequence[float]) -> Sequence[float]:
    if not len(sparsity) or not all(0 <= s < 1 for s in sparsity):
        raise OutOfRange(f"sparsity {list(sparsity)}: expected probabilities from 0 to below 1, one at least")
    return sparsity


def _trained(
    sparsity: Float[Tensor, " model"],
    importance: Float[Tensor, "model feature"],
    m: int,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    linear: bool,
    progress: bool,
) -> dict[str, Tensor]:
    """All models at once; each sees the same uniform numbers, which its sparsity thins."""
    if not bool(importance.isfinite().all()) or bool((importance < 0).any()):
        raise ArgumentError("importances: expected finite numbers that are not negative")
    count, n = importance.shape
    draw = torch.Generator().manual_seed(seed)
    W = torch.nn.Parameter(torch.randn(count, n, m, generator=draw) / n**0.5)
    b = torch.nn.Parameter(torch.zeros(count, 1, n))
    weight, keep = importance.float()[:, None], 1 - sparsity.float()[:, None, None]
    optimizer = torch.optim.Adam([W, b], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    tail = max(1, steps // 10)
    loss_sum = torch.zeros(count)
    for step in progress_bar(range(steps), "toy models", show=progress):
        x = torch.rand(count, batch_size, n, generator=draw)
        x = x * (torch.rand(count, batch_size, n, generator=draw) < keep)
        out = torch.baddbmm(b, x @ W, W.mT)
        losses = ((x - (out if linear else out.relu())).square() * weight).sum(-1).mean(-1)
        optimizer.zero_grad()
        (losses / keep[:, 0, 0]).sum().backward()  # rare features have small losses: as large steps for all
        optimizer.step()
        schedule.step()
        if step >= steps - tail:
            loss_sum += losses.detach()
    rows = in_float64(W.detach())
    norm = rows.norm(dim=-1)
    products = (rows @ rows.mT).square()
    others = products.sum(-1) - products.diagonal(dim1=-2, dim2=-1)
    return {
        "W": rows,
        "b": in_float64(b.detach()[:, 0]),
        "norm": norm,
        "dimensionality": dimensionality(rows),
        "interference": torch.where(norm > 1e-3, others / norm.square().clamp_min(1e-6), 0),
        "stored": (norm > 0.5).sum(-1),
        "loss": in_float64(loss_sum / tail),
    }


def _as_dataset(
    numbers: dict[str, Tensor],
    shape: tuple[int, ...],
    dims: list[str],
    coords: Any,
    made_by: Any,
    facts: dict[str, Any],
) -> xr.Dataset:
    own = {"W": ["feature", "d_model"], "stored": [], "loss": []}
    arrays = {}
    for name, value in numbers.items():
        table = value.reshape(*shape, *value.shape[1:])
        labels = [*dims, *own.get(name, ["feature"])]
        arrays[name] = labelled(table, labels, coords, technique=made_by, **facts)
    return xr.Dataset(arrays, attrs=arrays["W"].attrs)
