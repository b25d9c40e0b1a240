"""What a probe is fitted to and what it is judged by: whole groups on one side, and what leaks from one to the other.

Tokens of a document, or of a word, know each other. A probe that has seen some of a group recognizes the rest, so a
group is trained on or tested on, never both; and rows that are the same in both parts are counted.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.warned import warn
from caseback.model.anatomy.coerce import are_several


def numbered(values: Sequence[Any] | Tensor | np.ndarray, what: str, n: int) -> tuple[list[Any], np.ndarray]:
    """The distinct values, sorted where they can be, and the number of each example's.

    Raises
    ------
    CasebackError
        For another count than ``n``, and values that are lists.
    """
    listed = listed_values(values, what)
    if len(listed) != n:
        raise CasebackError(f"{len(listed)} {what} for {n} examples: expected one for each")
    try:
        distinct = sorted(set(listed))
    except TypeError:
        if unusable := [value for value in listed if not isinstance(value, Hashable)]:
            raise CasebackError(f"{what} hold {unusable[0]!r}: expected one name or number for each example") from None
        distinct = list(dict.fromkeys(listed))
    number = {value: i for i, value in enumerate(distinct)}
    return distinct, np.array([number[value] for value in listed])


def listed_values(values: Sequence[Any] | Tensor | np.ndarray, what: str) -> list[Any]:
    """Several values as a list.

    Raises
    ------
    CasebackError
        For one value, and tensors that hold none or are sparse.
    """
    if not are_several(values) or (isinstance(values, Tensor) and (values.is_meta or values.layout != torch.strided)):
        raise CasebackError(f"{what} are a {type(values).__name__}: expected several, as a list or a dense tensor")
    return values.tolist() if isinstance(values, Tensor | np.ndarray) else list(values)


def two_classes(
    values: Sequence[Any] | Tensor | np.ndarray, n: int, positive: Any = None
) -> tuple[list[Any], np.ndarray]:
    """The negative class and the positive one, by default the later one sorted; 1 at each example of it, else 0.

    Raises
    ------
    CasebackError
        For another number of classes than two, and a positive class that is neither.
    """
    classes, labels = numbered(values, "labels", n)
    if len(classes) != 2:
        raise CasebackError(f"{len(classes)} classes ({', '.join(map(repr, classes[:4]))}): expected two")
    if positive is not None:
        if not isinstance(positive, Hashable) or positive not in set(classes):
            raise CasebackError(f"the positive class {positive!r} is not among the labels {classes}")
        if positive == classes[0]:
            classes, labels = classes[::-1], 1 - labels
    return classes, labels


def folds(y: np.ndarray, groups: np.ndarray | None, n_folds: int, seed: int) -> list[np.ndarray]:
    """The tested examples of each fold: whole groups, classes in like shares (scikit-learn's stratified folds).

    Raises
    ------
    CasebackError
        For fewer groups or examples of a class than folds.
    """
    fewest = np.bincount(y).min()
    if groups is None and fewest < n_folds:
        raise CasebackError(f"a class has {fewest} examples: expected {n_folds} or more, so that each part has one")
    if groups is not None and np.bincount(y).max() < n_folds:
        raise CasebackError(f"no class has more than {np.bincount(y).max()} examples: expected {n_folds} or more")
    if groups is not None and len(set(groups.tolist())) < n_folds:
        raise CasebackError(f"{len(set(groups.tolist()))} groups: expected {n_folds} or more, a part needs one")
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    split = kind(n_folds, shuffle=True, random_state=seed % 2**32)  # as far as its seeds go
    return [test for _, test in split.split(np.zeros(len(y)), y, groups)]


def held_out(
    y: np.ndarray, classes: Sequence[Any], groups: np.ndarray | None, n_folds: int, seed: int
) -> Bool[np.ndarray, " example"]:
    """Which examples judge: the first of ``folds``, behind which every class is left to train on.

    Raises
    ------
    OutOfRange
        For fewer than two parts.
    CasebackError
        As ``folds``, and for a class whose examples are all held out.

    Examples
    --------
    >>> int(held_out(np.array([0, 1] * 4), ["no", "yes"], None, 4, 0).sum())
    2
    """
    if n_folds < 2:
        raise OutOfRange(f"n_folds {n_folds}: expected at least 2")
    held = np.zeros(len(y), dtype=bool)
    held[folds(y, groups, n_folds, seed)[0]] = True
    if missing := sorted(set(range(len(classes))) - set(y[~held].tolist())):
        raise CasebackError(
            f"no example of {classes[missing[0]]!r} is left to train on: its examples are in too few groups"
        )
    return held


def repeated_rows(x: Float[Tensor, "site example d"], test: Bool[Tensor, " example"]) -> int:
    """How many tested examples are the same, at every site, as one that was trained on."""
    key = _keys(x)
    return int(torch.isin(key[test], key[~test]).sum())


def say_repeated_later(x: Float[Tensor, "site example d"], portion: Int[Tensor, " example"], stacklevel: int) -> int:
    """How many examples are the same, at every site, as one of an earlier portion, with a warning where some are."""
    _, of = _keys(x).unique(return_inverse=True)
    first = torch.full_like(portion, int(portion.max())).scatter_reduce(0, of, portion, "amin")
    if repeated := int((portion > first[of]).sum()):
        warn(
            f"{repeated} of {len(portion)} examples are the same as one that was sent before: name what they share as "
            "groups, or the code is short by memory",
            stacklevel=stacklevel,
        )
    return repeated


def _keys(x: Float[Tensor, "site example d"]) -> Float[Tensor, " example"]:
    """A number for each example, the same only for examples that are the same at every site."""
    # a projection on one random direction in float64 tells apart whatever differs
    draw = torch.Generator().manual_seed(0)
    directions = torch.randn(len(x), x.shape[2], generator=draw, dtype=torch.float64).to(x.device)
    key = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for site, direction in zip(x, directions, strict=True):
        key += site.double() @ direction
    return key


def say_repeated(x: Float[Tensor, "site example d"], test: Bool[Tensor, " example"], stacklevel: int) -> int:
    """How many tested examples leak their label, as ``repeated_rows`` counts them, with a warning where some do."""
    if repeated := repeated_rows(x, test):
        warn(
            f"{repeated} of {int(test.sum())} held-out examples are the same as one that was trained on: name what "
            "they share as groups, or accuracy is of memory",
            stacklevel=stacklevel,
        )
    return repeated
