"""The two dimensions of truth: one that tells true from false, one that does so the other way round where it is denied.

    a - mean of its topic  =  tau t_G + tau p t_P       tau: +1 true, -1 false       p: +1 affirmative, -1 negated
    score = w . (t_G . a, polarity . a) + b             polarity: the normal of a classifier of p

t_G and t_P are least squares of the centered states, so each is what its coefficient multiplies with the other held
still. A direction from affirmative statements alone is t_G + t_P and fails on negated ones. (Buerger et al. 2024)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.decode.probes.logistic import fit_logistic
from caseback.decode.probes.splits import numbered
from caseback.decode.probes.standard import Standard
from caseback.decode.representations import representations
from caseback.errors import CasebackError
from caseback.model.registry import technique

PENALTY = 1e-2
NEARLY_NONE = 1e-4


@dataclass(frozen=True, eq=False)
class TruthPlane:
    """Directions of truth at each place.

    Attributes
    ----------
    general, polar
        (place, d): t_G and t_P.
    polarity
        (place, d): the normal of what tells affirmative statements from negated ones, those above 0.
    weight
        (place, 2), of the two coordinates.
    bias
        (place,).
    """

    general: Float[Tensor, "place d"]
    polar: Float[Tensor, "place d"]
    polarity: Float[Tensor, "place d"]
    weight: Float[Tensor, "place 2"]
    bias: Float[Tensor, " place"]

    def coordinates(self, x: Float[Tensor, "place example d"]) -> Float[Tensor, "place example 2"]:
        """t_G . a and polarity . a."""
        return x.to(self.general) @ torch.stack([self.general, self.polarity], -1)

    def scores(self, x: Float[Tensor, "place example d"]) -> Float[Tensor, "place example"]:
        """Log odds that each statement is true."""
        return (self.coordinates(x) @ self.weight[..., None])[..., 0] + self.bias[:, None]

    def __repr__(self) -> str:
        return f"TruthPlane({len(self.general)} places of width {self.general.shape[1]})"


@technique(
    entry=("5.4.20",), citation="Buerger et al. 2024", cost="a logistic regression at each place; no model is run"
)
def truth_plane(
    x: Any,
    true: Sequence[bool] | Tensor | np.ndarray,
    negated: Sequence[bool] | Tensor | np.ndarray,
    topics: Sequence[Any] | Tensor | np.ndarray | None = None,
) -> TruthPlane:
    """Find a general direction of truth and one that turns with polarity, and tell true from false in their plane.

    Parameters
    ----------
    x
        ``States`` of statements, or representations (place, example, d), or (example, d) of one place.
    true
        Whether each statement is true.
    negated
        Whether each is negated.
    topics
        What each is about: states are centered topic by topic for the two directions. None: all together.

    Returns
    -------
    TruthPlane
        ``scores`` are log odds of truth, also of statements of topics that were not seen, which are not centered.

    Raises
    ------
    CasebackError
        Unless there are true and false statements, both affirmative and negated.

    Notes
    -----
    Entry 5.4.20: Buerger et al. 2024, "Truth is Universal". Their regressions have no penalty; these have a small one,
    with which directions exist where fewer statements than dimensions are given.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> true, negated = torch.arange(400) % 2 == 0, torch.arange(400) % 4 > 1
    >>> t, p = torch.where(true, 1.0, -1.0)[:, None], torch.where(negated, -1.0, 1.0)[:, None]
    >>> x = torch.randn(400, 6, generator=draw) + 3 * t * torch.eye(6)[0] + 3 * t * p * torch.eye(6)[1]
    >>> plane = truth_plane(x, true, negated)
    >>> int(plane.general[0].abs().argmax()), int(plane.polar[0].abs().argmax())
    (0, 1)
    """
    data = representations(x)
    n = data.shape[1]
    truth, no = (_mask(values, what, n).to(data.device) for values, what in ((true, "true"), (negated, "negated")))
    for kind in (truth & no, truth & ~no, ~truth & no, ~truth & ~no):
        if not bool(kind.any()):
            raise CasebackError(
                "the plane of truth takes true and false statements, affirmative and negated: one kind of the four is "
                "missing"
            )
    topic = np.zeros(n, dtype=int) if topics is None else numbered(topics, "topics", n)[1]
    general, polar = truth_directions(data, truth, no, torch.from_numpy(topic).to(data.device))
    polarity = classifier(data, ~no, PENALTY)[0]
    plane = TruthPlane(general, polar, polarity, general.new_zeros(len(general), 2), general.new_zeros(len(general)))
    weight, bias = classifier(plane.coordinates(data), truth, NEARLY_NONE)
    return TruthPlane(general, polar, polarity, weight, bias)


def truth_directions(
    x: Float[Tensor, "place example d"],
    true: Bool[Tensor, " example"],
    negated: Bool[Tensor, " example"],
    topic: Tensor,
) -> tuple[Float[Tensor, "place d"], Float[Tensor, "place d"]]:
    """Least squares of states, centered by topic, on truth and on truth times polarity."""
    tau = torch.where(true, 1.0, -1.0).double()
    design = torch.stack([tau, torch.where(negated, -tau, tau)], 1)  # (example, 2)
    member = torch.nn.functional.one_hot(topic).double()
    share = member / member.sum(0)
    # D^T (a - mean of its topic) without a copy of the states: what is subtracted is subtracted from D
    weights = torch.linalg.solve(design.T @ design, design.T)  # (2, example)
    weights = weights - (weights @ member) @ share.T
    both = weights.to(x) @ x
    return both[:, 0].double(), both[:, 1].double()


def classifier(
    x: Float[Tensor, "place example d"], positive: Bool[Tensor, " example"], penalty: float
) -> tuple[Float[Tensor, "place d"], Float[Tensor, " place"]]:
    """The normal of a logistic regression at each place, and its intercept."""
    standard = Standard.of(x)
    w, b = standard.folded(*fit_logistic(standard, positive.long(), 2, l2=x.new_full((len(x),), penalty)))
    return w[..., 0].double(), b[..., 0].double()


def _mask(values: Any, what: str, n: int) -> Bool[Tensor, " example"]:
    given = torch.as_tensor(np.asarray(values))
    if given.shape != (n,) or not bool(((given == 0) | (given == 1)).all()):
        raise CasebackError(f"{what} is of shape {tuple(given.shape)}: expected True or False for each of {n} examples")
    return given.bool()
