"""Linear probes: is a label readable from a representation, by a plane, on examples of which nothing was seen?

    p(y | x) = softmax((x - mean) / scale W + b)         accuracy and bits on groups that were held out

A probe's accuracy says little alone. Beside it stand what the majority class gives, the same probe with labels shuffled
(what chance and the number of features give), on request a control task (labels that are random but the same for all
examples of a type: Hewitt & Liang 2019), and an interval over the held-out groups. Whether the model *uses* what is
readable takes an intervention.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.probes.closed_forms import Fit, fit_lda, fit_mass_mean, fit_ridge
from caseback.decode.probes.judged import table_of
from caseback.decode.probes.logistic import fit_logistic
from caseback.decode.probes.splits import folds, numbered, repeated_rows
from caseback.decode.probes.standard import Standard
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.model.registry import technique

Method = Literal["logistic", "ridge", "mass_mean", "lda"]
PENALTIES: dict[str, tuple[float, ...]] = {
    "logistic": (1e-1, 1e-2, 1e-3, 1e-4),
    "ridge": (1e1, 1.0, 1e-1, 1e-2),
    "mass_mean": (0.0,),
    "lda": (0.9, 0.5, 0.1, 0.01),
}
"""What is tried for each method; the strongest comes first, so that the next begins where it ended."""


@dataclass(frozen=True)
class Probe:
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
        """Of each class; differences of scores are log odds for logistic probes and LDA."""
        return _of_each_class(x.to(self.weight) @ self.weight + self.bias[:, None])

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
    y: Sequence[Any] | Tensor | np.ndarray,
    *,
    method: Method = "logistic",
    groups: Sequence[Any] | Tensor | np.ndarray | None = None,
    types: Sequence[Any] | Tensor | np.ndarray | None = None,
    sites: Sequence[Any] | None = None,
    penalty: float | None = None,
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
    n_folds
        Into how many parts groups are dealt.
    resamples
        Resamples of the held-out groups for the 95 % interval.
    seed
        Same seed, same result.

    Returns
    -------
    Probe
        ``table`` has by site: ``accuracy``, its interval ``low`` and ``high``, ``train_accuracy``, ``bits`` (the mean
        surprise at the label, of a constant guess ``majority_bits``; of logistic probes and LDA, whose scores are log
        odds), ``shuffled`` (accuracy of the same probe fitted
        to shuffled labels), with ``types`` ``control`` and ``selectivity``, and the ``penalty``; and ``majority``.

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
    data = _features(x)
    n = data.shape[1]
    classes, labels = numbered(y, "labels", n)
    if len(classes) < 2:
        raise CasebackError(f"all {n} labels are {classes[0]!r}: a probe needs two classes or more")
    of = None if groups is None else numbered(groups, "groups", n)[1]
    names = list(range(len(data))) if sites is None else list(sites)
    if len(names) != len(data):
        raise CasebackError(f"{len(names)} names for {len(data)} sites: expected one for each")
    if penalty is not None and not 0 <= penalty <= 1e30:
        raise OutOfRange(f"penalty {penalty}: expected 0 or a positive number, up to 1e30")
    if n_folds < 2 or resamples < 1:
        raise OutOfRange(f"n_folds {n_folds}, resamples {resamples}: expected at least 2 and 1")
    test = np.zeros(n, dtype=bool)
    test[folds(labels, of, n_folds, seed)[0]] = True
    train = np.flatnonzero(~test)
    held = torch.from_numpy(test).to(data.device)
    if len(set(labels[train])) < len(classes):
        missing = next(c for i, c in enumerate(classes) if i not in labels[train])
        raise CasebackError(f"no example of {missing!r} is left to train on: its examples are in too few groups")
    repeated = repeated_rows(data, held)
    if repeated:
        warnings.warn(
            f"{repeated} of {int(test.sum())} held-out examples are the same as one that was trained on: name what "
            "they share as groups, or accuracy is of memory",
            stacklevel=2,
        )
    inner = folds(labels[train], None if of is None else of[train], n_folds, seed)
    random = np.random.default_rng(seed)
    tasks = {"task": labels, "shuffled": random.permutation(labels)}
    if types is not None:
        distinct, type_of = numbered(types, "types", n)
        tasks["control"] = random.choice(labels, size=len(distinct))[type_of]
    parts: list[dict[str, Tensor]] = []
    step = max(1, limit("probe_numbers", data.device) // data[0].numel())
    for some in data.split(step):
        parts.append(_fitted(some, tasks, len(classes), method, penalty, held, train, inner))
    measured = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    table = table_of(measured, labels, test, of, names, random, resamples)
    sizes = {"n_train": len(train), "n_test": int(test.sum()), "repeated": repeated}
    table.attrs |= {"method": method, "seed": seed, **sizes}
    return Probe(measured["weight"], measured["bias"], classes, table)


def _features(x: Any) -> Float[Tensor, "site example d"]:
    try:
        data = torch.as_tensor(x.values if isinstance(x, xr.DataArray) else x)
    except (TypeError, ValueError, RuntimeError):
        raise CasebackError(f"representations are a {type(x).__name__}: expected (site, example, d_model)") from None
    data = data[None] if data.ndim == 2 else data
    if data.ndim != 3 or not data.numel():
        raise CasebackError(f"representations of shape {tuple(data.shape)}: expected (site, example, d_model)")
    data = data if data.dtype in (torch.float32, torch.float64) else data.float()
    if not bool(data.isfinite().all()):
        number = int((~data.isfinite()).any(2).any(1).nonzero()[0, 0])
        raise CasebackError(f"site {number} holds numbers that are not finite: leave those examples out")
    flat = (data == data[:, :1]).all(1).all(1)
    if bool(flat.any()):
        number = int(flat.nonzero()[0, 0])
        raise CasebackError(f"site {number} is the same at every example: nothing can be read from it")
    return data


def _fit(standard: Standard, y: Tensor, n_classes: int, method: str, penalty: Tensor, start: Fit | None = None) -> Fit:
    if method == "logistic":
        return fit_logistic(standard, y, n_classes, l2=penalty, start=start)
    closed: dict[str, Callable[..., Fit]] = {"ridge": fit_ridge, "mass_mean": fit_mass_mean, "lda": fit_lda}
    return closed[method](standard, y, n_classes, penalty)


def _fitted(
    x: Tensor,
    tasks: dict[str, np.ndarray],
    n_classes: int,
    method: str,
    penalty: float | None,
    held: Tensor,
    train: np.ndarray,
    inner: list[np.ndarray],
) -> dict[str, Tensor]:
    """Of some sites: weights, and how many tested examples are right, task by task."""
    of = {name: torch.from_numpy(labels).to(x.device) for name, labels in tasks.items()}
    known = x[:, ~held]
    chosen = (
        _best_penalty(known, of["task"][~held], n_classes, method, inner)
        if penalty is None
        else x.new_full((len(x),), penalty)
    )
    standard = Standard.of(known)
    result = {"penalty": chosen}
    for name, labels in of.items():
        w, b = _fit(standard, labels[~held], n_classes, method, chosen)
        own, bias = standard.folded(w, b)
        log_p = _of_each_class(x @ own + bias[:, None]).log_softmax(-1)
        right = log_p.argmax(-1) == labels
        result[f"right/{name}"] = right[:, held].cpu()
        if name == "task":
            surprise = -log_p[:, held].gather(-1, labels[held].expand(len(x), -1)[..., None])[..., 0]
            bits = surprise.double().mean(1) / np.log(2)
            result |= {
                "weight": own,
                "bias": bias,
                "train_accuracy": right[:, ~held].double().mean(1),
                "bits": bits if method in ("logistic", "lda") else torch.full_like(bits, torch.nan),
            }
    return result


def _of_each_class(z: Float[Tensor, "site example k"]) -> Float[Tensor, "site example class"]:
    """Scores of all classes, the first of two being 0."""
    return torch.cat([torch.zeros_like(z), z], -1) if z.shape[-1] == 1 else z


def _best_penalty(x: Tensor, y: Tensor, n_classes: int, method: str, inner: list[np.ndarray]) -> Float[Tensor, " site"]:
    """The penalty of the least surprise on inner folds, site by site."""
    tried = PENALTIES[method]
    if len(tried) == 1:
        return x.new_full((len(x),), tried[0])
    surprise = torch.zeros(len(tried), len(x), dtype=torch.float64, device=x.device)
    for fold in inner:
        held = torch.zeros(len(y), dtype=torch.bool, device=x.device)
        held[torch.from_numpy(fold).to(x.device)] = True
        standard, start = Standard.of(x[:, ~held]), None
        for i, value in enumerate(tried):
            start = _fit(standard, y[~held], n_classes, method, x.new_full((len(x),), value), start)
            own, bias = standard.folded(*start)
            log_p = _of_each_class(x[:, held] @ own + bias[:, None]).log_softmax(-1)
            if method == "ridge":  # its scores are no log odds
                surprise[i] -= (log_p.argmax(-1) == y[held]).double().mean(1)
            else:
                surprise[i] -= log_p.gather(-1, y[held].expand(len(x), -1)[..., None]).double().mean((1, 2))
    return torch.tensor(tried, dtype=x.dtype, device=x.device)[surprise.argmin(0)]
