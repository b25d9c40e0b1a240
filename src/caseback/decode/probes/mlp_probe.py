"""MLP probes, and what their size buys: a probe that is powerful enough learns words by heart.

    p(y | x) = softmax(relu((x - mean) / scale W_1 + b_1) W_2 + b_2),     W_1 of d_model x hidden;  hidden 0: linear

Selectivity, the accuracy beyond that on labels drawn for each type, is to be read as a curve over hidden sizes: of two
probes of like accuracy the one of higher selectivity says more of the representation. Hewitt & Liang 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from caseback.decode.probes.judged import table_of
from caseback.decode.probes.setting import Given, Labels, Setting
from caseback.decode.probes.training import expect_training, trained
from caseback.errors import OutOfRange
from caseback.jobs.budget import limit
from caseback.model.registry import technique


@technique(
    entry=("4.1.1", "4.1.3"),
    citation="Hewitt & Liang 2019",
    cost="epochs passes over the examples for each hidden size, all sites and controls together; no model is run",
)
def mlp_probe(
    x: Any,
    y: Labels,
    *,
    hidden: Sequence[int] = (0, 32, 128),
    dropout: float = 0.0,
    weight_decay: float = 0.01,
    epochs: int = 100,
    batch_size: int = 128,
    learning_rate: float = 5e-3,
    groups: Labels | None = None,
    types: Labels | None = None,
    sites: Sequence[Any] | None = None,
    n_folds: int = 4,
    resamples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Train probes with one hidden layer, of several sizes, at many sites at once, and judge them on held-out groups.

    Parameters
    ----------
    x
        Representations (site, example, d_model), or (example, d_model) of one site.
    y
        A label for each example.
    hidden
        Sizes of the hidden layer; 0 is a linear probe, trained alike.
    dropout
        The share of hidden units that are left out in training.
    weight_decay, epochs, batch_size, learning_rate
        Of AdamW, whose step falls along half a cosine. The epoch counts that an inner fold likes best.
    groups
        What each example belongs to (its document): a group is never on both sides.
    types
        A type for each example (its word), for the control task and selectivity.
    sites
        Names of the sites; by default their numbers.
    n_folds
        Into how many parts groups are dealt; one is held out.
    resamples
        Resamples of the held-out groups for the 95 % interval.
    seed
        Same seed, same result.

    Returns
    -------
    xr.Dataset
        By site and ``hidden``: ``accuracy`` with ``low`` and ``high``, ``train_accuracy``, ``bits`` (the mean surprise
        at the label), ``shuffled`` (accuracy of the same probe for shuffled labels), with ``types`` ``control`` and
        ``selectivity``; and ``majority`` and ``majority_bits`` of a constant guess.

    Raises
    ------
    CasebackError
        For one class, counts that differ, sizes or rates that mean nothing, too few groups or examples of a class,
        numbers that are not finite, and features that never vary.

    Notes
    -----
    Entries 4.1.1 and 4.1.3: Hewitt & Liang 2019.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> x = torch.randn(1, 1200, 4, generator=draw)
    >>> y = (x[0, :, 0] * x[0, :, 1] > 0).tolist()  # no plane parts these
    >>> table = mlp_probe(x, y, hidden=(0, 64))
    >>> [bool(accuracy > 0.85) for accuracy in table.accuracy[0]]
    [False, True]
    """
    setting = Setting.dealt(Given.of(x, y, groups=groups, sites=sites), n_folds=n_folds, seed=seed)
    sizes = sorted(set(hidden))
    if not sizes or sizes[0] < 0 or sizes[-1] > 2**16:
        raise OutOfRange(f"hidden {tuple(hidden)}: expected sizes from 0 to 65536, at least one")
    if not 0 <= dropout < 1:
        raise OutOfRange(f"dropout {dropout}: expected from 0 to below 1")
    expect_training(epochs, batch_size, learning_rate, weight_decay)
    random = np.random.default_rng(seed)
    tasks = setting.tasks(types, random)
    options = {
        **{"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate},
        **{"weight_decay": weight_decay, "seed": seed},
    }
    step = max(1, limit("probe_numbers", setting.x.device) // setting.x[0].numel())
    parts = []
    for some in setting.x.split(step):
        by_size = [_fitted(some, setting, tasks, size, dropout, options) for size in sizes]
        parts.append({name: torch.stack([one[name] for one in by_size], 1) for name in by_size[0]})
    measured = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    table = table_of(measured, setting, random, resamples, "hidden").assign_coords(hidden=sizes)
    table.attrs |= {"dropout": dropout, "weight_decay": weight_decay}
    return table


def _fitted(
    x: Tensor, setting: Setting, tasks: dict[str, np.ndarray], size: int, dropout: float, options: dict[str, Any]
) -> dict[str, Tensor]:
    n_classes, d = len(setting.classes), x.shape[2]
    labels = torch.from_numpy(np.stack(list(tasks.values()))).to(x.device)  # (task, example)
    validation = setting.train[setting.inner()[0]]
    rows = np.setdiff1d(setting.train, validation)
    known = x[:, torch.from_numpy(rows).to(x.device)]
    mean, scale = known.mean(1), known.std(1, correction=0)
    scale = scale.masked_fill(scale <= torch.finfo(x.dtype).eps * mean.abs() * 4, 1)

    def forward(parameters: list[Tensor], some: Tensor, noise: torch.Generator | None) -> Tensor:
        """Scores (site, task, example, class)."""
        z = (x[:, some] - mean[:, None]) / scale[:, None]
        z = torch.einsum("snd,stdh->stnh", z, parameters[0]) + parameters[1][:, :, None]
        if size:
            z = z.relu()
            if noise is not None and dropout:
                left = torch.rand(len(some), size, generator=noise, device=x.device) >= dropout
                z = z * left / (1 - dropout)
            z = z @ parameters[2] + parameters[3][:, :, None]
        return z

    def loss(parameters: list[Tensor], some: Tensor, noise: torch.Generator | None) -> Tensor:
        z = forward(parameters, some, noise)
        target = labels[:, some].expand(len(x), -1, -1)
        return cross_entropy(z.flatten(0, 2), target.flatten(), reduction="none").view(z.shape[:3]).mean(-1)

    draw = torch.Generator().manual_seed(options["seed"])
    shapes = [(d, size), (size,), (size, n_classes), (n_classes,)] if size else [(d, n_classes), (n_classes,)]
    normal = lambda *shape: torch.randn(shape, generator=draw, dtype=torch.float64).to(x) / shape[0] ** 0.5  # noqa: E731
    start = [normal(*shape) if len(shape) == 2 else x.new_zeros(shape) for shape in shapes]
    start = [values.expand(len(x), len(tasks), *values.shape) for values in start]
    best = trained(start, loss, rows, validation, **options)
    everything = torch.arange(x.shape[1], device=x.device).split(options["batch_size"])
    with torch.no_grad():
        log_p = torch.cat([forward(best, some, None).log_softmax(-1) for some in everything], 2)
    return measures(log_p, labels, list(tasks), setting)


def measures(
    log_p: Float[Tensor, "site task example class"], labels: Tensor, tasks: list[str], setting: Setting
) -> dict[str, Tensor]:
    """What ``table_of`` takes, of trained probes' log probabilities."""
    held = setting.held
    right = log_p.argmax(-1) == labels
    own = log_p[:, 0].gather(-1, labels[0].expand(len(log_p), -1)[..., None])[..., 0]
    return {f"right/{name}": right[:, i, held].cpu() for i, name in enumerate(tasks)} | {
        "train_accuracy": right[:, 0, ~held].double().mean(-1).cpu(),
        "bits": -own[:, held].double().mean(-1).cpu() / math.log(2),
    }
