"""Linear probes: is a label readable from a representation, by a plane, on examples of which nothing was seen?

    p(y | x) = softmax((x - mean) / scale W + b)         accuracy and bits on groups that were held out

A probe's accuracy says little alone. Beside it stand what the majority class gives, the same probe with labels shuffled
(what chance and the number of features give), on request a control task (labels that are random but the same for all
examples of a type: Hewitt & Liang 2019), and an interval over the held-out groups. Whether the model *uses* what is
readable takes an intervention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.probes.calibration import calibration_error, inverse_temperature
from caseback.decode.probes.judged import table_of
from caseback.decode.probes.penalties import (
    LOG_ODDS,
    Method,
    best_penalty,
    expect_penalty,
    fit,
    out_of_fold,
    scores_of_classes,
)
from caseback.decode.probes.setting import Given, Labels, Setting
from caseback.decode.probes.standard import Standard
from caseback.decode.representations import expect_fitting
from caseback.errors import OutOfRange
from caseback.jobs.budget import limit
from caseback.model.display import Displayed
from caseback.model.registry import technique


@dataclass(frozen=True)
class Probe(Displayed):
    """A linear probe at each site.

    Attributes
    ----------
    weight
        (site, d_model, column), of features as they are; one column where there are two classes.
    bias
        (site, column).
    classes
        The labels, in the order of columns; with one column it speaks for the second.
    table
        What was measured, by site.
    """

    weight: Float[Tensor, "site d k"]
    bias: Float[Tensor, "site k"]
    classes: list[Any]
    table: xr.Dataset

    def scores(self, x: Float[Tensor, "site example d"]) -> Float[Tensor, "site example class"]:
        """Of each class; differences of scores are log odds for logistic probes and LDA.

        Raises
        ------
        CasebackError
            For other sites or another width.
        """
        expect_fitting(x, *self.weight.shape[:2])
        return scores_of_classes(x.to(self.weight) @ self.weight + self.bias[:, None])

    def predict(self, x: Float[Tensor, "site example d"]) -> list[list[Any]]:
        """The likeliest label of each example, by site."""
        return [[self.classes[i] for i in row] for row in self.scores(x).argmax(-1).tolist()]

    def __repr__(self) -> str:
        accuracy, names = self.table.accuracy.values, self.table.site.values
        best = int(accuracy.argmax())
        return (
            f"Probe({len(names)} sites, {len(self.classes)} classes; best {accuracy[best]:.3f} at {names[best]}, "
            f"majority {float(self.table.majority):.3f})"
        )


@technique(
    entry=("4.1.1", "4.1.3"),
    citation="Alain & Bengio 2016; Hewitt & Liang 2019",
    cost="a product of the features with themselves and some tens of passes over them; no model is run",
)
def linear_probe(
    x: Any,
    y: Labels,
    *,
    method: Method = "logistic",
    groups: Labels | None = None,
    types: Labels | None = None,
    sites: Sequence[Any] | None = None,
    penalty: float | None = None,
    temperature: bool = False,
    n_folds: int = 4,
    resamples: int = 1000,
    seed: int = 0,
) -> Probe:
    """Fit linear probes at many sites at once, and judge them on groups that were held out.

    One of ``n_folds`` parts is held out for judging; among the others as many folds choose the penalty at each site.

    Parameters
    ----------
    x
        Representations (site, example, d_model), or (example, d_model) of one site.
    y
        A label for each example.
    method
        ``"logistic"``, ``"ridge"``, ``"mass_mean"`` or ``"lda"``; see ``closed_forms`` for the last three.
    groups
        What each example belongs to (its document, its word, its template): a group is never on both sides. Without it
        each example is its own group.
    types
        A type for each example (its word), for the control task.
    sites
        Names of the sites; by default their numbers.
    penalty
        On the weights; by default the best of ``PENALTIES`` on inner folds. For logistic probes it is 1 / (n C) of
        scikit-learn's C.
    temperature
        Divide scores by the temperature that inner folds, each scored by the probe of the others, like best (Guo et
        al. 2017). It makes log odds of the scores of ridge and mass-mean too, so that these have ``bits``.
    n_folds
        Into how many parts groups are dealt.
    resamples
        Resamples of the held-out groups for the 95 % interval.
    seed
        Same seed, same result.

    Returns
    -------
    Probe
        ``table`` has by site: ``accuracy``, its interval ``low`` and ``high``, ``train_accuracy``, ``shuffled``
        (accuracy of the same probe fitted to shuffled labels), with ``types`` ``control`` and ``selectivity``, and the
        ``penalty``. Where scores are log odds (logistic, LDA, or with ``temperature``) also ``bits``, the mean surprise
        at the label, and ``calibration_error``, the expected one in 15 bins of confidence. ``majority`` and
        ``majority_bits`` are of a constant guess; ``right`` is of each held-out example.

    Raises
    ------
    CasebackError
        For one class, counts that differ, too few groups or examples of a class, numbers that are not finite, and
        features that never vary.

    Notes
    -----
    Entries 4.1.1 and 4.1.3: Alain & Bengio 2016; Hewitt & Liang 2019. Examples on both sides of the split that are the
    same at every site leak their label: they are counted as ``repeated`` and said.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> x = torch.randn(2, 400, 8, generator=draw)
    >>> y = (x[1, :, 0] > 0).tolist()
    >>> probe = linear_probe(x, y, sites=["before", "after"])
    >>> bool(probe.table.accuracy[1] > 0.95), bool(probe.table.low[0] < 0.6)
    (True, True)
    """
    setting = Setting.dealt(Given.of(x, y, groups=groups, sites=sites), n_folds=n_folds, seed=seed)
    expect_penalty(penalty)
    if resamples < 1:
        raise OutOfRange(f"resamples {resamples}: expected at least 1")
    random = np.random.default_rng(seed)
    tasks = setting.tasks(types, random)
    inner = setting.inner()
    data = setting.x
    step = max(1, limit("probe_numbers", data.device) // data[0].numel())
    parts = [_fitted(some, setting, tasks, method, penalty, temperature, inner) for some in data.split(step)]
    measured = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    weight, bias = measured.pop("weight"), measured.pop("bias")
    table = table_of(measured, setting, random, resamples)
    table.attrs["method"] = method
    return Probe(weight, bias, setting.classes, table)


def _fitted(
    x: Tensor,
    setting: Setting,
    tasks: dict[str, np.ndarray],
    method: Method,
    penalty: float | None,
    temperature: bool,
    inner: list[np.ndarray],
) -> dict[str, Tensor]:
    """Of some sites: weights, and how many tested examples are right, task by task."""
    held, n_classes = setting.held, len(setting.classes)
    of = {name: torch.from_numpy(labels).to(x.device) for name, labels in tasks.items()}
    known, own_labels = x[:, ~held], of["task"][~held]
    chosen = best_penalty(known, own_labels, n_classes, method, inner, penalty)
    standard = Standard.of(known)
    result = {"penalty": chosen}
    for name, labels in of.items():
        own, bias = standard.folded(*fit(standard, labels[~held], n_classes, method, chosen))
        if name == "task" and temperature:
            sharper = inverse_temperature(out_of_fold(known, own_labels, n_classes, method, chosen, inner), own_labels)
            own, bias = own * sharper[:, None, None], bias * sharper[:, None]
            result["temperature"] = 1 / sharper
        log_p = scores_of_classes(x @ own + bias[:, None]).log_softmax(-1)
        right = log_p.argmax(-1) == labels
        result[f"right/{name}"] = right[:, held].cpu()
        if name == "task":
            surprise = -log_p[:, held].gather(-1, labels[held].expand(len(x), -1)[..., None])[..., 0]
            bits = surprise.double().mean(1) / np.log(2)
            error = calibration_error(log_p[:, held].amax(-1).exp(), right[:, held])
            nothing = torch.full_like(bits, torch.nan)
            speaks = temperature or method in LOG_ODDS
            result |= {
                "weight": own,
                "bias": bias,
                "train_accuracy": right[:, ~held].double().mean(1),
                "bits": bits if speaks else nothing,
                "calibration_error": error if speaks else nothing,
            }
    return result
