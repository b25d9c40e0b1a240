"""Linear classifiers of many places at once, and how often they are right on examples that were held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.decode.probes.penalties import Method as Classifier
from caseback.decode.probes.penalties import fit, scores_of_classes
from caseback.decode.probes.splits import held_out, numbered
from caseback.decode.probes.standard import Standard
from caseback.errors import CasebackError


@dataclass(frozen=True)
class Split:
    """Labels, and which examples are held out.

    Attributes
    ----------
    labels
        Classes from 0 on.
    held
        Whether an example is held out.
    n_classes
        How many.
    majority
        How often the class that is most frequent in training is right on held-out examples.
    """

    labels: Int[Tensor, " example"]
    held: Bool[Tensor, " example"]
    n_classes: int
    majority: float


def split_of(y: Any, n: int, groups: Any, n_folds: int, seed: int, device: torch.device) -> Split:
    """One of so many parts is held out: the first fold of ``linear_probe`` with the same arguments.

    Raises
    ------
    CasebackError
        For one class, counts that differ, too few examples or groups of a class.
    OutOfRange
        For fewer than two parts.
    """
    classes, labels = numbered(y, "labels", n)
    if len(classes) < 2:
        raise CasebackError(f"all {n} labels are {classes[0]!r}: erasing needs two classes or more")
    of = None if groups is None else numbered(groups, "groups", n)[1]
    held = held_out(labels, classes, of, n_folds, seed)
    majority = float((labels[held] == np.bincount(labels[~held]).argmax()).mean())
    return Split(torch.from_numpy(labels).to(device), torch.from_numpy(held).to(device), len(classes), majority)


def classified(
    x: Float[Tensor, "place example d"], split: Split, classifier: Classifier, penalty: float
) -> tuple[Float[Tensor, "place d k"], Float[Tensor, " place"]]:
    """Weights of classifiers of features as they are, and their accuracy on held-out examples."""
    standard = Standard.of(x[:, ~split.held], in_place=True)
    of_each = standard.mean.new_full((len(standard.mean),), penalty)
    fitted = fit(standard, split.labels[~split.held], split.n_classes, classifier, of_each)
    own, bias = standard.folded(*fitted)
    guess = scores_of_classes(x[:, split.held] @ own + bias[:, None]).argmax(-1)
    return own, (guess == split.labels[split.held]).double().mean(1)
