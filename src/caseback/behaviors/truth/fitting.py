"""How a detector is fitted to states: each way gives scores of any states, at all places at once.

    mass_mean   (m1 - m0) . a                  logistic   the log odds of a linear probe
    ccs         theta . (a - mean of its polarity) + b,  theta by consistency of a statement with its negation alone
    saplma      a multilayer perceptron d -> 256 -> 128 -> 64 -> 2
    two_dimensional   log odds in the plane of truth

``Fitted`` takes states (place, example, d) and which are negated, and gives (place, example), higher where true.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from caseback.behaviors.truth.plane import PENALTY, classifier, truth_plane
from caseback.decode.directions.consistent import consistent_directions
from caseback.decode.probes.training import trained
from caseback.errors import CasebackError

Fitted = Callable[[Float[Tensor, "place example d"], Bool[Tensor, " example"]], Float[Tensor, "place example"]]
LAYERS = (256, 128, 64)
EPOCHS, RATE = 5, 1e-3
"""Of SAPLMA: five epochs of Adam at Keras's step; 32 statements at a time."""


@dataclass(frozen=True, eq=False)
class Known:
    """What a detector is fitted to.

    Attributes
    ----------
    x
        States.
    true, negated
        Of each example.
    topic, pair
        Numbers: what each is about, and which statement and negation are a pair, -1 for none.
    seed
        Of whatever is drawn.
    """

    x: Float[Tensor, "place example d"]
    true: Bool[Tensor, " example"]
    negated: Bool[Tensor, " example"]
    topic: Int[Tensor, " example"]
    pair: Int[Tensor, " example"]
    seed: int = 0


def mass_mean(known: Known) -> Fitted:
    """The mean of true statements less that of false ones. (Marks & Tegmark 2023)"""
    w = known.x[:, known.true].double().mean(1) - known.x[:, ~known.true].double().mean(1)
    return _along(w, known.x.new_zeros(len(w)).double())


def logistic(known: Known) -> Fitted:
    """A linear probe."""
    return _along(*classifier(known.x, known.true, PENALTY))


def two_dimensional(known: Known) -> Fitted:
    """The plane of truth. (Buerger et al. 2024)"""
    plane = truth_plane(known.x, known.true.cpu(), known.negated.cpu(), known.topic.cpu())
    return lambda x, negated: plane.scores(x)


def ccs(known: Known) -> Fitted:
    """Consistency of statements with their negations; labels fix the sign alone. (Burns et al. 2023)

    Raises
    ------
    CasebackError
        For fewer than eight statements with their negation.
    """
    plus, minus = halves(known.negated, known.pair)
    if len(plus) < 8:
        raise CasebackError(f"{len(plus)} statements with their negation: ccs takes 8 or more")
    directions = consistent_directions(
        known.x[:, plus], known.x[:, minus], known.true[plus].cpu().numpy(), seed=known.seed
    )

    def scores(x: Tensor, negated: Tensor) -> Tensor:
        centers = directions.centers[:, torch.where(negated, 0, 1)]  # (place, example, d)
        own = ((x.to(centers) - centers) @ directions.weight[..., None])[..., 0]
        return own + directions.bias[:, None]

    return scores


def halves(
    negated: Bool[Tensor, " example"], pair: Int[Tensor, " example"]
) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """The affirmative and the negated statement of every pair that has both, by number."""
    whole = pair[negated][torch.isin(pair[negated], pair[~negated])]
    ordered = []
    for of in (~negated, negated):
        at = (of & torch.isin(pair, whole) & (pair >= 0)).nonzero()[:, 0]
        ordered.append(at[pair[at].argsort(stable=True)])
    return ordered[0], ordered[1]


def negation_pairs(
    true: Bool[np.ndarray, " example"], negated: Bool[np.ndarray, " example"], fact: Int[np.ndarray, " example"]
) -> Int[np.ndarray, " example"]:
    """A number for each statement and its negation: of one fact, the other polarity and the other truth; -1 for none.

    Examples
    --------
    >>> true, negated = np.array([True, False, False, True]), np.array([False, False, True, True])
    >>> negation_pairs(true, negated, np.array([7, 7, 7, 7]))
    array([1, 0, 1, 0])
    """
    _, number = np.unique(np.stack([fact, np.where(negated, ~true, true)], 1), axis=0, return_inverse=True)
    number = number.reshape(-1)
    ones = [np.bincount(number[some], minlength=number.max() + 1) == 1 for some in (~negated, negated)]
    return np.where((ones[0] & ones[1])[number], number, -1)


def saplma(known: Known) -> Fitted:
    """A multilayer perceptron, as large as the authors'. (Azaria & Mitchell 2023)"""
    x = known.x.float()
    mean, scale = x.mean(1, keepdim=True), x.std(1, keepdim=True, correction=0)
    scale = scale.masked_fill(scale <= torch.finfo(x.dtype).eps * mean.abs() * 4, 1)
    sizes = (x.shape[2], *LAYERS, 2)
    draw = torch.Generator().manual_seed(known.seed)
    start: list[Tensor] = []
    for wide, narrow in zip(sizes[:-1], sizes[1:], strict=True):
        w = torch.randn(wide, narrow, generator=draw, dtype=torch.float64) * (2 / wide) ** 0.5
        start += [w.to(x).expand(len(x), 1, -1, -1), x.new_zeros(len(x), 1, narrow)]
    labels = known.true.long()

    def forward(parameters: list[Tensor], rows: Tensor) -> Tensor:
        z = (rows - mean) / scale
        for i in range(0, len(parameters), 2):
            z = z @ parameters[i][:, 0] + parameters[i + 1][:, 0, None]
            z = z.relu() if i + 2 < len(parameters) else z
        return z

    def loss(parameters: list[Tensor], some: Tensor, noise: torch.Generator | None) -> Tensor:
        z = forward(parameters, x[:, some])
        target = labels[some].expand(len(x), -1)
        return cross_entropy(z.flatten(0, 1), target.flatten(), reduction="none").view(len(x), 1, -1).mean(-1)

    rows = np.arange(x.shape[1])
    options = {"epochs": EPOCHS, "batch_size": 32, "learning_rate": RATE, "seed": known.seed}
    best = trained(start, loss, rows, rows, **options)

    def scores(other: Tensor, negated: Tensor) -> Tensor:
        z = forward(best, other.to(x))
        return (z[..., 1] - z[..., 0]).double()

    return scores


def _along(w: Float[Tensor, "place d"], b: Float[Tensor, " place"]) -> Fitted:
    return lambda x, negated: (x.to(w) @ w[..., None])[..., 0] + b[:, None]
