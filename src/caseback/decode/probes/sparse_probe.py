"""Sparse probes: is a label readable from k neurons, or latents, alone?

    choose k features by a score, on the examples that are trained on;  logistic regression on these;  judge on others

A feature that one neuron carries has F1 = 1 at k = 1; one that is spread over m neurons gets better up to k = m.
Gurnee et al. 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from caseback.decode.probes.feature_scores import feature_scores
from caseback.decode.probes.judged import table_of
from caseback.decode.probes.penalties import best_penalty, expect_penalty, fit, scores_of_classes
from caseback.decode.probes.setting import Given, Labels, Setting
from caseback.decode.probes.standard import Standard
from caseback.errors import OutOfRange
from caseback.jobs.budget import limit
from caseback.model.registry import technique

Select = Literal["mean_difference", "mutual_information", "f", "l1"]


@technique(
    entry=("4.1.8",),
    citation="Gurnee et al. 2023",
    cost="a score of every feature and a small logistic regression for each k; no model is run",
)
def sparse_probe(
    x: Any,
    y: Labels,
    *,
    k: Sequence[int] = (1, 2, 5, 10, 20),
    select: Select = "mean_difference",
    groups: Labels | None = None,
    types: Labels | None = None,
    sites: Sequence[Any] | None = None,
    penalty: float | None = None,
    n_folds: int = 4,
    resamples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Fit probes that read k features, at many sites at once, and judge them on groups that were held out.

    Parameters
    ----------
    x
        Activations (site, example, feature), such as ``mlp_post`` or a dictionary's latents; (example, feature) of one
        site.
    y
        A label for each example; with two, the second in order (True) is what F1 is of.
    k
        How many features probes read.
    select
        What features are chosen by, on training examples alone: ``"mean_difference"``, ``"mutual_information"``,
        ``"f"`` or ``"l1"``; see ``feature_scores``.
    groups
        What each example belongs to (its document): a group is never on both sides.
    types
        A type for each example (its word), for the control task.
    sites
        Names of the sites; by default their numbers.
    penalty
        On the weights; by default the best of four on inner folds, for each k and site.
    n_folds
        Into how many parts groups are dealt; one is held out.
    resamples
        Resamples of the held-out groups for the 95 % interval.
    seed
        Same seed, same result.

    Returns
    -------
    xr.Dataset
        By site and ``k``: ``f1`` (macro F1 of more than two classes), ``auroc`` (the mean over classes against the
        rest), ``accuracy`` with ``low``, ``high``, ``shuffled`` (features chosen and fitted for shuffled labels), with
        ``types`` ``control`` and ``selectivity``, ``penalty``; ``shuffled_f1`` and ``shuffled_auroc``. By site and
        ``rank``: the ``feature`` and its ``score``, best first.

    Raises
    ------
    CasebackError
        For one class, counts that differ, more features than there are, too few groups or examples of a class, numbers
        that are not finite, and features that never vary.

    Notes
    -----
    Entry 4.1.8: Gurnee et al. 2023.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> x = torch.randn(1, 400, 30, generator=draw).relu()
    >>> y = (x[0, :, 17] > 0.5).tolist()
    >>> table = sparse_probe(x, y, k=(1, 3))
    >>> int(table.feature[0, 0]), bool(table.f1[0, 0] > 0.95)
    (17, True)
    """
    setting = Setting.dealt(Given.of(x, y, groups=groups, sites=sites), n_folds=n_folds, seed=seed)
    expect_penalty(penalty)
    width = setting.x.shape[2]
    sizes = sorted(set(k))
    if not sizes or sizes[0] < 1 or sizes[-1] > width:
        raise OutOfRange(f"k {tuple(k)}: expected numbers from 1 to {width}, which is how many features there are")
    random = np.random.default_rng(seed)
    tasks = setting.tasks(types, random)
    inner = setting.inner()
    step = max(1, limit("probe_numbers", setting.x.device) // setting.x[0].numel())
    parts = [_fitted(some, setting, tasks, sizes, select, penalty, inner) for some in setting.x.split(step)]
    measured = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    order, score = measured.pop("order"), measured.pop("score")
    table = table_of(measured, setting, random, resamples, "k").assign_coords(k=sizes)
    table["feature"] = ("site", "rank"), order.cpu().numpy()
    table["score"] = ("site", "rank"), score.cpu().double().numpy()
    table.attrs["select"] = select
    return table


def _fitted(
    x: Tensor,
    setting: Setting,
    tasks: dict[str, np.ndarray],
    sizes: list[int],
    select: Select,
    penalty: float | None,
    inner: list[np.ndarray],
) -> dict[str, Tensor]:
    held, n_classes = setting.held, len(setting.classes)
    known = x[:, ~held]
    by_size: dict[str, list[Tensor]] = {}
    result: dict[str, Tensor] = {}
    for name, numbers in tasks.items():
        y = torch.from_numpy(numbers).to(x.device)
        score, order = feature_scores(known, y[~held], n_classes, select).topk(sizes[-1], dim=1)
        if name == "task":
            result |= {"order": order, "score": score}
        for i, size in enumerate(sizes):
            columns = order[:, None, :size]
            few = known.gather(2, columns.expand(-1, known.shape[1], -1))
            # one penalty for all tasks, as in linear_probe: the task's own
            if name == "task":
                chosen = best_penalty(few, y[~held], n_classes, "logistic", inner, penalty)
                by_size.setdefault("penalty", []).append(chosen)
            standard = Standard.of(few)
            w, b = standard.folded(*fit(standard, y[~held], n_classes, "logistic", by_size["penalty"][i]))
            z = scores_of_classes(x[:, held].gather(2, columns.expand(-1, int(held.sum()), -1)) @ w + b[:, None])
            by_size.setdefault(f"right/{name}", []).append(z.argmax(-1) == y[held])
            prefix = {"task": "", "shuffled": "shuffled_"}.get(name)
            if prefix is not None:
                by_size.setdefault(f"{prefix}f1", []).append(f1_score(z.argmax(-1), y[held], n_classes))
                by_size.setdefault(f"{prefix}auroc", []).append(auroc(z.softmax(-1), y[held]))
    return result | {name: torch.stack(values, 1) for name, values in by_size.items()}


def f1_score(guess: Int[Tensor, "site example"], y: Int[Tensor, " example"], n_classes: int) -> Float[Tensor, " site"]:
    """2 hits / (guesses + cases) of the second of two classes, or its mean over more; 0 where there is neither.

    Examples
    --------
    >>> f1_score(torch.tensor([[1, 1, 0, 0]]), torch.tensor([1, 0, 1, 0]), 2).tolist()
    [0.5]
    """
    guesses, cases = one_hot(guess, n_classes).double(), one_hot(y, n_classes).double()
    both = guesses.sum(1) + cases.sum(0)
    f1 = torch.where(both > 0, 2 * (guesses * cases).sum(1) / both.clamp_min(1), 0)
    return f1[:, 1] if n_classes == 2 else f1.mean(-1)


def auroc(p: Float[Tensor, "site example class"], y: Int[Tensor, " example"]) -> Float[Tensor, " site"]:
    """How often a case of a class scores above another example, ties half; the mean over classes that have both.

    Examples
    --------
    >>> p = torch.tensor([[0.1, 0.4, 0.35, 0.8]])
    >>> round(float(auroc(torch.stack([1 - p, p], -1), torch.tensor([0, 0, 1, 1]))), 6)
    0.75
    """
    case: Bool[Tensor, "example class"] = one_hot(y, p.shape[-1]).bool()
    if p.shape[-1] == 2:  # the other class has the same area, up to ties that rounding breaks
        p, case = p[..., 1:], case[:, 1:]
    ascending = p.mT.contiguous()  # (site, class, example)
    values = ascending.sort(-1).values
    # the mean rank of equal values lies halfway between the first and the last of them
    rank = (torch.searchsorted(values, ascending) + torch.searchsorted(values, ascending, right=True) + 1) / 2
    cases = case.sum(0)
    others = len(y) - cases
    above = (rank.double() * case.T).sum(-1) - cases * (cases + 1) / 2
    measured = (cases > 0) & (others > 0)
    share = above / (cases * others).clamp_min(1)
    return (share * measured).sum(-1) / measured.sum()
