"""INLP: train a linear classifier, project its directions out, and again, until none is better than the majority class.

    P = I - Q Q^T,      Q an orthonormal basis of all classifiers' weights;      r(x) = x P

The projection is the one onto the intersection of the classifiers' nullspaces, which the product of theirs is not once
directions are not orthogonal. It stops by accuracy on examples that were held out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.erasure.classifiers import Classifier, Split, classified, split_of
from caseback.decode.erasure.eraser import Eraser, eraser_of
from caseback.decode.erasure.target_moments import moments_of
from caseback.decode.probes.splits import say_repeated
from caseback.decode.representations import representations
from caseback.decode.states import States
from caseback.errors import OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.jobs.warned import warn
from caseback.model.registry import technique


@technique(
    entry=("4.2.4",),
    citation="Ravfogel et al. 2020",
    cost="a linear classifier of all places for each iteration; no model is run",
)
def inlp(
    x: States | Tensor | np.ndarray | Sequence[Any],
    y: Sequence[Any] | Tensor | np.ndarray,
    *,
    iterations: int = 35,
    classifier: Classifier = "logistic",
    penalty: float = 1e-3,
    above: float = 0.0,
    groups: Sequence[Any] | Tensor | np.ndarray | None = None,
    n_folds: int = 5,
    affine: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> Eraser:
    """Iterative nullspace projection: erase what linear classifiers read, one after another.

    Parameters
    ----------
    x
        ``States``, or representations (place, example, d), or (example, d) of one place.
    y
        A label for each example.
    iterations
        At most so many classifiers, 35 as in the paper; of K classes each takes K - 1 directions.
    classifier
        As ``linear_probe`` has them.
    penalty
        On the classifier's weights; see ``linear_probe``.
    above
        A place is done where accuracy on held-out examples is at most so much above the majority class's.
    groups
        What each example belongs to: a group is trained on or held out, never both.
    n_folds
        One of so many parts is held out.
    affine
        Whether the mean stays where it is; the paper's map is linear.
    seed
        Same seed, same result.
    progress
        Show a progress bar.

    Returns
    -------
    Eraser
        ``provenance["accuracy"]`` has for each iteration the held-out accuracy at each place before it (None where the
        place is done), and ``provenance["majority"]`` what they are compared with.

    Raises
    ------
    CasebackError
        For one class, too few examples or groups of a class, numbers that are not finite, shapes or counts that do not
        fit.
    OutOfRange
        For ``iterations`` or ``n_folds`` that are too few, and numbers that cannot be.

    Notes
    -----
    Entry 4.2.4: Ravfogel et al. 2020. A warning names places that classifiers still read after the last iteration.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(400, 8, generator=draw), torch.randint(2, (400,), generator=draw)
    >>> x[:, 0] += 6 * y
    >>> eraser = inlp(x, y, above=0.15)
    >>> eraser.rank, [round(accuracy[0], 2) for accuracy in eraser.provenance["accuracy"]]
    (1, [1.0, 0.62])
    """
    if iterations < 1 or not 0 <= above < 1:
        raise OutOfRange(f"iterations {iterations}, above {above}: expected at least 1, and a share below 1")
    if not 0 < penalty < float("inf"):
        raise OutOfRange(f"penalty {penalty}: expected a positive number")
    data = representations(x)
    moments = moments_of(x, y, numeric=False)
    split = split_of(y, data.shape[1], groups, n_folds, seed, data.device)
    say_repeated(data, split.held, stacklevel=4)
    step = max(1, limit("probe_numbers", data.device) // data[0].numel())
    parts = data.split(step)
    bar = progress_bar(total=len(parts) * iterations, show=progress, what="inlp", unit="iteration")
    with bar:
        walked = [_walk(part, split, iterations, classifier, penalty, above, bar.update) for part in parts]
    rank = max(basis.shape[2] for basis, _ in walked)
    basis = torch.cat([torch.nn.functional.pad(basis, (0, rank - basis.shape[2])) for basis, _ in walked])
    histories = itertools.zip_longest(*(history for _, history in walked))
    accuracy = [
        [value for part, of in zip(parts, at, strict=True) for value in of or [None] * len(part)] for at in histories
    ]
    if len(accuracy) > iterations and (worst := max((a for a in accuracy[-1] if a is not None), default=0)) > (
        split.majority + above
    ):
        warn(
            f"after {iterations} iterations a classifier is right on {worst:.0%} of held-out examples, the majority "
            f"class on {split.majority:.0%}: give more iterations, or say how much is allowed with above=",
            stacklevel=2,
        )
    options = {"classifier": classifier, "penalty": penalty, "above": above, "seed": seed}
    measured = {"accuracy": accuracy, "majority": split.majority}
    return eraser_of(moments, basis, basis.mT, "inlp", affine=affine, **options, **measured)


def _walk(
    x: Float[Tensor, "place example d"],
    split: Split,
    iterations: int,
    classifier: Classifier,
    penalty: float,
    above: float,
    advance: Callable[[int], Any],
) -> tuple[Float[Tensor, "place d r"], list[list[float | None]]]:
    """Directions of some places, in float64, and the accuracies before each iteration; a place stops by its own."""
    rest = x
    basis = x.new_zeros(len(x), x.shape[2], 0, dtype=torch.float64)
    going = list(range(len(x)))
    history: list[list[float | None]] = []
    for i in range(iterations + 1):
        weights, accuracy = classified(rest[going], split, classifier, penalty)
        measured = dict(zip(going, accuracy.tolist(), strict=True))
        history.append([measured.get(place) for place in range(len(x))])
        ahead = [place for place in going if measured[place] > split.majority + above]
        if i == iterations or not ahead:
            break
        chosen = torch.tensor([going.index(place) for place in ahead], device=x.device)
        new = basis.new_zeros(len(x), x.shape[2], weights.shape[2])
        new[ahead] = _orthonormal(weights[chosen].double(), basis[ahead])
        basis = torch.cat([basis, new], 2)
        rest = rest - (rest @ new.to(x)) @ new.mT.to(x)
        going = ahead
        advance(1)
    return basis, history


def _orthonormal(w: Float[Tensor, "place d k"], basis: Float[Tensor, "place d r"]) -> Float[Tensor, "place d k"]:
    """An orthonormal basis of what of the weights is outside a basis; 0 where they depend on one another."""
    for _ in range(2):  # once leaves what cancellation leaves
        w = w - basis @ (basis.mT @ w)
    u, s, _ = torch.linalg.svd(w, full_matrices=False)
    return u * (s > s[:, :1] * 1e-6)[:, None]
