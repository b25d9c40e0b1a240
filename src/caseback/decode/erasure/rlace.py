"""R-LACE: the projection of a given rank that leaves the best linear classifier worst off, found by a game.

    min_theta max_P  mean_i -log p_theta(y_i | (I - P) x_i),      P on the Fantope {0 <= P <= I, tr P = k}

Both sides step in turn: the classifier down the loss, P up and back onto the Fantope (eigenvalues cut to [0, 1] after
a shift that makes their sum k). The projection is onto the first k eigenvectors. The game need not settle, so that of
those that are looked at on the way the one is taken on which a new classifier does worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.erasure.classifiers import Split, classified, split_of
from caseback.decode.erasure.eraser import Eraser, eraser_of
from caseback.decode.erasure.target_moments import moments_of
from caseback.decode.probes.splits import say_repeated
from caseback.decode.representations import representations
from caseback.decode.states import States
from caseback.errors import OutOfRange
from caseback.jobs.progress import progress_bar
from caseback.jobs.warned import warn
from caseback.model.registry import technique


@technique(
    entry=("4.2.5",),
    citation="Ravfogel et al. 2022",
    cost="steps x (an eigendecomposition (d, d) of each place); no model is run",
)
def rlace(
    x: States | Tensor | np.ndarray | Sequence[Any],
    y: Sequence[Any] | Tensor | np.ndarray,
    *,
    k: int = 1,
    steps: int = 5000,
    lr: float = 5e-3,
    rows: int = 128,
    every: int = 500,
    above: float = 0.0,
    groups: Sequence[Any] | Tensor | np.ndarray | None = None,
    n_folds: int = 5,
    affine: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> Eraser:
    """Erase a concept by the rank-k projection that an adversary finds.

    Parameters
    ----------
    x
        ``States``, or representations (place, example, d), or (example, d) of one place.
    y
        A label for each example.
    k
        The rank.
    steps
        At most so many of each side; the paper takes 50,000 and more.
    lr
        The rate of both sides.
    rows
        Examples of a step, the same at all places.
    every
        After so many steps the projection is looked at: a new classifier is trained and judged on held-out examples.
    above
        It ends where accuracy on held-out examples is at most so much above the majority class's at every place.
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
        ``provenance["accuracy"]`` has the held-out accuracy at each place, ``provenance["majority"]`` what it is
        compared with.

    Raises
    ------
    CasebackError
        For one class, too few examples or groups of a class, numbers that are not finite, shapes or counts that do not
        fit.
    OutOfRange
        For ``k`` beyond the width, and numbers that cannot be.

    Notes
    -----
    Entry 4.2.5: Ravfogel et al. 2022. At equal rank ``leace`` guards as well against linear classifiers, in closed
    form. Representations are scaled to a mean variance of 1 for the game, which changes no projection.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(400, 4, generator=draw), torch.randint(2, (400,), generator=draw)
    >>> x[:, 0] += 6 * y
    >>> eraser = rlace(x, y, steps=200, every=100, above=0.1)
    >>> eraser.rank, abs(eraser.proj_left[0, 0, 0].item()) > 0.95
    (1, True)
    """
    data = representations(x)
    d = data.shape[2]
    if not 1 <= k < d:
        raise OutOfRange(f"k {k}: expected 1 to {d - 1}, fewer than the width")
    if min(steps, rows, every) < 1 or not 0 < lr < float("inf") or not 0 <= above < 1:
        raise OutOfRange(
            f"steps {steps}, rows {rows}, every {every}, lr {lr}, above {above}: expected positive numbers"
        )
    moments = moments_of(x, y, numeric=False)
    split = split_of(y, data.shape[1], groups, n_folds, seed, data.device)
    say_repeated(data, split.held, stacklevel=4)
    size = moments.covariance.diagonal(dim1=1, dim2=2).mean(1).sqrt()
    scaled = (data.double() - moments.mean[:, None]) / size[:, None, None]
    basis, accuracy = _played(scaled, split, k, steps, lr, rows, every, above, seed, progress)
    if (worst := max(accuracy)) > split.majority + above:
        warn(
            f"a new classifier is right on {worst:.0%} of held-out examples, the majority class on "
            f"{split.majority:.0%}: give more steps, a larger k, or say how much is allowed with above=",
            stacklevel=2,
        )
    options = {"k": k, "steps": steps, "lr": lr, "rows": rows, "above": above, "seed": seed}
    measured = {"accuracy": accuracy, "majority": split.majority}
    return eraser_of(moments, basis, basis.mT, "rlace", affine=affine, **options, **measured)


def _played(
    x: Float[Tensor, "place example d"],
    split: Split,
    k: int,
    steps: int,
    lr: float,
    rows: int,
    every: int,
    above: float,
    seed: int,
    progress: bool,
) -> tuple[Float[Tensor, "place d k"], list[float]]:
    """The best bases that were looked at, and the accuracies of new classifiers without them."""
    known, labels = x[:, ~split.held], split.labels[~split.held]
    target = torch.nn.functional.one_hot(labels, split.n_classes).to(x)
    draw = torch.Generator().manual_seed(seed)
    n_places, n, d = known.shape
    p = torch.eye(d).to(x).repeat(n_places, 1, 1) * (k / d)
    theta, bias = x.new_zeros(n_places, d, split.n_classes), x.new_zeros(n_places, 1, split.n_classes)
    best, least = x.new_zeros(n_places, d, k), x.new_full((n_places,), torch.inf)
    for i in progress_bar(range(1, steps + 1), "rlace", show=progress, unit="step"):
        some = torch.randint(n, (min(rows, n),), generator=draw).to(x.device)
        seen, wanted = known[:, some], target[some]
        guarded = seen - seen @ p
        error = ((guarded @ theta + bias).softmax(-1) - wanted) / len(some)
        theta, bias = theta - lr * (guarded.mT @ error), bias - lr * error.sum(1, keepdim=True)
        # the loss's gradient in P is -x^T error theta^T, made symmetric
        error = ((guarded @ theta + bias).softmax(-1) - wanted) / len(some)
        slope = -(seen.mT @ error) @ theta.mT
        p = _on_fantope(p + lr * (slope + slope.mT) / 2, k)
        if i % every == 0 or i == steps:
            basis = torch.linalg.eigh(p).eigenvectors[..., -k:]
            accuracy = classified(x - x @ basis @ basis.mT, split, "logistic", 1e-3)[1]
            better = accuracy < least
            best, least = torch.where(better[:, None, None], basis, best), torch.where(better, accuracy, least)
            if bool((least <= split.majority + above).all()):
                break
    return best, least.tolist()


def _on_fantope(p: Float[Tensor, "place d d"], k: int) -> Float[Tensor, "place d d"]:
    """The nearest symmetric matrix whose eigenvalues are in [0, 1] and sum up to ``k``."""
    values, vectors = torch.linalg.eigh(p)
    low, high = values[:, :1] - 1, values[:, -1:]
    for _ in range(60):  # the sum falls as the shift grows
        shift = (low + high) / 2
        much = (values - shift).clamp(0, 1).sum(1, keepdim=True) > k
        low, high = torch.where(much, shift, low), torch.where(much, high, shift)
    return (vectors * (values - (low + high) / 2).clamp(0, 1)[:, None]) @ vectors.mT
