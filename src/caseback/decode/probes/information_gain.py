"""What a representation tells of a label beyond a control, in bits: gains over control functions, V-information.

    gain         G = H(Y | c(R)) - H(Y | R)             c(R): a word's type, its embedding       Pimentel et al. 2020
    conditional  I_V(R -> Y | B) = H_V(Y | B, 0) - H_V(Y | B, R)                                 Hewitt et al. 2021
    pointwise    log2 p(y | B, r) - log2 p(y | B)       its mean is the above                    Ethayarajh et al. 2022

Each H is the cross-entropy, on groups that were held out, of logistic regression: an upper bound of the entropy, so that
a difference of two may have either sign. Both probes are of one family and are judged on the same examples.
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

from caseback.decode.probes.judged import interval, with_majority
from caseback.decode.probes.penalties import best_penalty, expect_penalty, fit, scores_of_classes
from caseback.decode.probes.setting import Given, Labels, Setting, features
from caseback.decode.probes.standard import Standard
from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.model.registry import technique


@technique(
    entry=("4.1.4",),
    citation="Pimentel et al. 2020; Hewitt et al. 2021; Ethayarajh et al. 2022",
    cost="two logistic regressions at each site; no model is run",
)
def information_gain(
    x: Any,
    y: Labels,
    *,
    control: Any = None,
    conditional: bool = False,
    groups: Labels | None = None,
    sites: Sequence[Any] | None = None,
    penalty: float | None = None,
    n_folds: int = 4,
    resamples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Measure how many bits representations at many sites tell of a label beyond a control.

    Parameters
    ----------
    x
        Representations (site, example, d_model), or (example, d_model) of one site.
    y
        A label for each example.
    control
        What the control function gives (example, width), the same at all sites: the embedding of each word's type, say,
        or its one-hot vector. By default nothing: the gain is then the V-information of x itself.
    conditional
        Let the probe see the control beside the representation, so that what both tell is not asked for twice.
    groups
        What each example belongs to (its document): a group is never on both sides.
    sites
        Names of the sites; by default their numbers.
    penalty
        On the weights; by default the best of four on inner folds, for each probe.
    n_folds
        Into how many parts groups are dealt; one is held out.
    resamples
        Resamples of the held-out groups for the 95 % interval.
    seed
        Same seed, same result.

    Returns
    -------
    xr.Dataset
        By site: ``gain`` in bits with its interval ``low`` and ``high``, ``bits`` of the probe, ``control_bits`` of the
        control's, ``shuffled`` (the gain where labels are shuffled) and ``penalty``. ``pointwise`` (site, example) is
        each held-out example's part, of which the gain is the mean: what the representation helps with.
        ``majority_bits`` are of a constant guess, which is the control where none is given.

    Raises
    ------
    CasebackError
        For one class, counts that differ, too few groups or examples of a class, numbers that are not finite, and
        features that never vary.

    Notes
    -----
    Entry 4.1.4: Pimentel et al. 2020; V-information of Xu et al. 2020, conditional in Hewitt et al. 2021, pointwise in
    Ethayarajh et al. 2022.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> word = torch.randint(0, 5, (800,), generator=draw)
    >>> sense = torch.randint(0, 2, (800,), generator=draw)
    >>> of_word, of_sense = torch.eye(5)[word], torch.eye(2)[sense]
    >>> x = torch.cat([of_word, of_sense], 1) + 0.01 * torch.randn(800, 7, generator=draw)
    >>> table = information_gain(x, (2 * word + sense).tolist(), control=of_word)
    >>> round(float(table.gain[0]), 1)
    1.0
    """
    setting = Setting.dealt(Given.of(x, y, groups=groups, sites=sites), n_folds=n_folds, seed=seed)
    expect_penalty(penalty)
    data = setting.x
    beside = None if control is None else _control(control, data)
    random = np.random.default_rng(seed)
    tasks = setting.tasks(None, random)
    inner = setting.inner()
    step = max(1, limit("probe_numbers", data.device) // data[0].numel())
    bits, control_bits, shuffled = {}, {}, torch.zeros(0)
    chosen = torch.zeros(0)
    for name, labels in tasks.items():
        known = torch.from_numpy(labels).to(data.device)
        if beside is None:
            control_bits[name] = _constant_bits(labels, setting)
        else:
            control_bits[name] = _surprises(beside, known, setting, inner, penalty)[0]
        parts = []
        for some in data.split(step):
            seen = torch.cat([some, beside.expand(len(some), -1, -1)], 2) if conditional and beside is not None else some
            parts.append(_surprises(seen, known, setting, inner, penalty))
        bits[name] = torch.cat([part[0] for part in parts])
        if name == "task":
            chosen = torch.cat([part[1] for part in parts])
    pointwise = (control_bits["task"] - bits["task"]).numpy()
    shuffled = (control_bits["shuffled"] - bits["shuffled"]).mean(1)
    low, high = interval(pointwise, np.ones(pointwise.shape[1]), setting.held_groups, random, resamples)
    columns = {
        "gain": pointwise.mean(1),
        "low": low,
        "high": high,
        "bits": bits["task"].mean(1).numpy(),
        "control_bits": np.full(len(data), float(control_bits["task"].mean())),
        "shuffled": shuffled.numpy(),
        "penalty": chosen.double().numpy(),
    }
    arrays = {name: ("site", values) for name, values in columns.items()}
    table = xr.Dataset(arrays, {"site": setting.names, "example": np.flatnonzero(setting.test)})
    table["pointwise"] = ("site", "example"), pointwise
    table.attrs["conditional"] = int(conditional)
    return with_majority(table, setting)


def _control(control: Any, data: Tensor) -> Float[Tensor, "1 example width"]:
    values = features(control, "(example, width)")
    if len(values) != data.shape[1]:
        raise CasebackError(f"a control of {len(values)} examples for {data.shape[1]}: expected a row for each")
    return values[None].to(data)


def _constant_bits(labels: np.ndarray, setting: Setting) -> Float[Tensor, "1 example"]:
    """The surprise of the classes' shares."""
    share = np.bincount(labels[~setting.test], minlength=len(setting.classes)) / (~setting.test).sum()
    return torch.from_numpy(-np.log2(share[labels[setting.test]].clip(1e-12)))[None]


def _surprises(
    x: Tensor, y: Tensor, setting: Setting, inner: list[np.ndarray], penalty: float | None
) -> tuple[Float[Tensor, "site held"], Float[Tensor, " site"]]:
    """Bits of each held-out example's label, and the penalty."""
    held, n_classes = setting.held, len(setting.classes)
    known, labels = x[:, ~held], y[~held]
    chosen = best_penalty(known, labels, n_classes, "logistic", inner, penalty)
    standard = Standard.of(known)
    w, b = standard.folded(*fit(standard, labels, n_classes, "logistic", chosen))
    log_p = scores_of_classes(x[:, held] @ w + b[:, None]).log_softmax(-1)
    own = log_p.gather(-1, y[held].expand(len(x), -1)[..., None])[..., 0]
    return -own.double().cpu() / math.log(2), chosen.cpu()
