"""What a representation tells of a label beyond a control, in bits: gains over control functions, V-information.

    gain         G = H(Y | c(R)) - H(Y | R)             c(R): a word's type, its embedding       Pimentel et al. 2020
    conditional  I_V(R -> Y | B) = H_V(Y | B, 0) - H_V(Y | B, R)                                 Hewitt et al. 2021
    pointwise    log2 p(y | B, r) - log2 p(y | B)       its mean is the above                    Ethayarajh et al. 2022

Each H is the cross-entropy of logistic regression on groups that were held out: an upper bound of the entropy, so that
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
from caseback.decode.probes.setting import Given, Labels, Setting
from caseback.decode.probes.standard import Standard
from caseback.decode.representations import representations
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
    shown = beside if conditional else None
    step = max(1, limit("probe_numbers", data.device) // data[0].numel())
    bits: dict[str, Tensor] = {}
    control_bits: dict[str, Tensor] = {}
    penalties: dict[str, list[Tensor]] = {"control": [], "x": []}
    for name, labels in tasks.items():
        known = torch.from_numpy(labels).to(data.device)
        if name == "task":  # the penalty is the task's own, as in linear_probe
            if beside is not None:
                penalties["control"] = [_penalty(beside, known, setting, inner, penalty)]
            penalties["x"] = [
                _penalty(_beside(some, shown), known, setting, inner, penalty) for some in data.split(step)
            ]
        if beside is None:
            control_bits[name] = _constant_bits(labels, setting)
        else:
            control_bits[name] = _surprises(beside, known, setting, penalties["control"][0])
        parts = zip(data.split(step), penalties["x"], strict=True)
        bits[name] = torch.cat([_surprises(_beside(some, shown), known, setting, own) for some, own in parts])
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
        "penalty": torch.cat(penalties["x"]).cpu().double().numpy(),
    }
    arrays = {name: ("site", values) for name, values in columns.items()}
    table = xr.Dataset(arrays, {"site": setting.names, "example": np.flatnonzero(setting.test)})
    table["pointwise"] = ("site", "example"), pointwise
    table.attrs["conditional"] = int(conditional)
    return with_majority(table, setting)


def _control(control: Any, data: Tensor) -> Float[Tensor, "1 example width"]:
    values = representations(control, "(1, example, width)", "control")
    if values.shape[:2] != (1, data.shape[1]):
        raise CasebackError(f"a control of shape {tuple(values.shape[1:])}: expected a row for each of {data.shape[1]}")
    return values.to(data)


def _constant_bits(labels: np.ndarray, setting: Setting) -> Float[Tensor, "1 example"]:
    """The surprise of the classes' shares."""
    share = np.bincount(labels[~setting.test], minlength=len(setting.classes)) / (~setting.test).sum()
    return torch.from_numpy(-np.log2(share[labels[setting.test]].clip(1e-12)))[None]


def _beside(x: Float[Tensor, "site example d"], control: Tensor | None) -> Float[Tensor, "site example wider"]:
    return x if control is None else torch.cat([x, control.expand(len(x), -1, -1)], 2)


def _penalty(
    x: Tensor, y: Tensor, setting: Setting, inner: list[np.ndarray], penalty: float | None
) -> Float[Tensor, " site"]:
    held = setting.held
    return best_penalty(x[:, ~held], y[~held], len(setting.classes), "logistic", inner, penalty)


def _surprises(x: Tensor, y: Tensor, setting: Setting, penalty: Tensor) -> Float[Tensor, "site held"]:
    """Bits of each held-out example's label."""
    held, n_classes = setting.held, len(setting.classes)
    standard = Standard.of(x[:, ~held], in_place=True)
    w, b = standard.folded(*fit(standard, y[~held], n_classes, "logistic", penalty))
    log_p = scores_of_classes(x[:, held] @ w + b[:, None]).log_softmax(-1)
    own = log_p.gather(-1, y[held].expand(len(x), -1)[..., None])[..., 0]
    return -own.cpu().double() / math.log(2)
