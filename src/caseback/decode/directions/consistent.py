"""Contrast-consistent directions: what is true of one of two statements and not of the other, found without labels.

    p(x) = sigmoid(theta . x + b),    loss = mean (p(x+) - (1 - p(x-)))^2 + min(p(x+), p(x-))^2       (CCS)
    theta = first principal component of x+ - x-                                                  (CRC-TPC)

Each half is centered by itself: without that the direction tells "yes" from "no", which every pair has. A pair's score
is (p(x+) + 1 - p(x-)) / 2, that x+ is the true one. Which way truth lies is not identified: labels of some pairs fix
it, or it stays open. Any feature that is opposite within pairs and divides them evenly will do, salient ones first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.directions.estimators import principal
from caseback.decode.directions.find import auroc, places_of
from caseback.decode.representations import representations
from caseback.decode.states import Place
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.progress import progress_bar
from caseback.model.registry import technique


@dataclass(frozen=True, eq=False)
class Consistent:
    """A contrast-consistent direction at each place.

    Attributes
    ----------
    weight
        (place, d), of centered halves.
    bias
        (place,).
    centers
        (place, half, d): the means of the negative and the positive half.
    places
        Of the first dimension.
    table
        What was measured, by place.
    """

    weight: Float[Tensor, "place d"]
    bias: Float[Tensor, " place"]
    centers: Float[Tensor, "place half d"]
    places: list[Place]
    table: xr.Dataset

    def probability(self, positive: Any, negative: Any) -> Float[Tensor, "place pair"]:
        """That the positive statement of each pair is the true one: (p(x+) + 1 - p(x-)) / 2.

        Raises
        ------
        CasebackError
            For halves of other places, widths or numbers.
        """
        plus, minus = _halves(positive, negative)
        if plus.shape[0] != len(self.places) or plus.shape[2] != self.weight.shape[1]:
            raise CasebackError(f"pairs of shape {tuple(plus.shape)}: expected ({len(self.places)}, pair, d)")
        p = [
            ((x.to(self.weight) - center[:, None]) @ self.weight[..., None])[..., 0] + self.bias[:, None]
            for x, center in ((minus, self.centers[:, 0]), (plus, self.centers[:, 1]))
        ]
        return (p[1].sigmoid() + 1 - p[0].sigmoid()) / 2

    def __repr__(self) -> str:
        return f"Consistent({len(self.places)} places; sign {self.table.attrs['sign']})"


@technique(
    entry=("4.2.2", "5.4.20"),
    citation="Burns et al. 2023",
    cost="steps x restarts products of the pairs with a vector; no model is run",
)
def consistent_directions(
    positive: Any,
    negative: Any,
    labels: Sequence[bool] | Tensor | np.ndarray | None = None,
    *,
    method: Literal["ccs", "crc"] = "ccs",
    restarts: int = 10,
    steps: int = 1000,
    lr: float = 1e-3,
    sites: Sequence[Any] | None = None,
    held_out: float = 0.25,
    seed: int = 0,
    progress: bool = False,
) -> Consistent:
    """Find the directions along which pairs of opposite statements are consistent, without labels, at all places.

    Parameters
    ----------
    positive, negative
        States of the pairs' two statements ("... yes", "... no"), in the same order: ``States``, or (place, pair, d),
        or (pair, d) of one place.
    labels
        Whether each positive statement is true. They are never fitted to: training pairs' fix the sign, held-out
        pairs' say how good it is.
    method
        ``"ccs"``, or ``"crc"``: its closed form, the first principal component of the centered differences.
    restarts, steps, lr
        Of Adam on all training pairs at once; the restart of the least loss is chosen. The defaults are those of the
        paper; features are scaled to a mean square of 1.
    sites
        Names of the places, where the states do not bring them.
    held_out
        The share of the pairs that are kept for judging.
    seed
        Same seed, same result.
    progress
        Show a progress bar.

    Returns
    -------
    Consistent
        ``table`` has by place ``loss`` on training pairs, and with labels ``accuracy`` and ``auroc`` on held-out ones.
        ``attrs["sign"]`` is ``"labels"``, or ``"not identified"``.

    Raises
    ------
    CasebackError
        For halves that do not fit each other, and fewer than eight pairs.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> truth = torch.rand(200, generator=draw) < 0.5
    >>> sign = torch.where(truth, 1.0, -1.0)[:, None] * torch.eye(5)[1]
    >>> x = torch.randn(2, 200, 5, generator=draw) / 2
    >>> found = consistent_directions(x[0] + sign, x[1] - sign, truth, method="crc")
    >>> bool(found.table.accuracy[0] > 0.95), found.table.attrs["sign"]
    (True, 'labels')
    """
    plus, minus = _halves(positive, negative)
    n = plus.shape[1]
    if n < 8:
        raise CasebackError(f"{n} pairs: expected 8 or more")
    if restarts < 1 or steps < 1 or not lr > 0 or not 0 < held_out < 1:
        raise OutOfRange(
            f"restarts {restarts}, steps {steps}, lr {lr}, held_out {held_out}: expected positive numbers, held_out < 1"
        )
    truth = None if labels is None else _truths(labels, n)
    places = places_of(positive, plus, sites)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    test, train = order[: max(1, round(held_out * n))], order[max(1, round(held_out * n)) :]
    centers = torch.stack([minus[:, train].mean(1), plus[:, train].mean(1)], 1)
    halves = torch.stack([minus, plus], 1) - centers[:, :, None]
    scale = halves[:, :, train].square().mean((1, 2, 3)).sqrt()
    scaled = halves / scale[:, None, None, None]
    fit = _ccs if method == "ccs" else _crc
    theta, bias, loss = fit(scaled[:, :, train], restarts, steps, lr, seed, progress)
    weight = theta / scale[:, None]
    consistent = Consistent(weight, bias, centers, places, xr.Dataset())
    table = xr.Dataset({"loss": ("site", loss.cpu().numpy())}, {"site": [str(place) for place in places]})
    table.attrs |= {"method": method, "seed": seed, "n_train": len(train), "n_test": len(test)}
    table.attrs["sign"] = "not identified" if truth is None else "labels"
    if truth is not None:
        right = (consistent.probability(plus[:, train], minus[:, train]) > 0.5) == truth[train].to(plus.device)
        sign = torch.where(right.double().mean(1) < 0.5, -1.0, 1.0)
        # the other way round is -theta and -bias: p becomes 1 - p
        consistent = Consistent(weight * sign[:, None].to(weight), bias * sign.to(bias), centers, places, table)
        p, own = consistent.probability(plus[:, test], minus[:, test]), truth[test].to(plus.device)
        table["accuracy"] = ("site", ((p > 0.5) == own).double().mean(1).cpu().numpy())
        if 0 < int(own.sum()) < len(own):
            table["auroc"] = ("site", auroc(p, own))
    return Consistent(consistent.weight, consistent.bias, centers, places, table)


def _halves(positive: Any, negative: Any) -> tuple[Tensor, Tensor]:
    plus, minus = representations(positive), representations(negative)
    if plus.shape != minus.shape:
        raise CasebackError(
            f"positive statements are {tuple(plus.shape)} and negative ones {tuple(minus.shape)}: expected one of each "
            "in every pair"
        )
    return plus.double(), minus.double()


def _truths(labels: Any, n: int) -> Tensor:
    truth = torch.as_tensor(np.asarray(labels))
    if truth.shape != (n,) or not bool(((truth == 0) | (truth == 1)).all()):
        raise CasebackError(f"labels of shape {tuple(truth.shape)}: expected True or False for each of {n} pairs")
    return truth.bool()


def _crc(x: Tensor, restarts: int, steps: int, lr: float, seed: int, progress: bool) -> tuple[Tensor, Tensor, Tensor]:
    difference = x[:, 1] - x[:, 0]
    theta = principal(difference)
    bias = theta.new_zeros(len(theta))
    return theta, bias, _loss(x, theta[:, None], bias[:, None])[:, 0]


def _loss(x: Tensor, theta: Float[Tensor, "place restart d"], bias: Tensor) -> Float[Tensor, "place restart"]:
    """The loss of each restart at each place; ``x`` is (place, half, pair, d)."""
    places, _, n, d = x.shape
    z = (theta @ x.reshape(places, 2 * n, d).mT).view(places, -1, 2, n) + bias[..., None, None]
    p = z.sigmoid()
    return ((p[:, :, 1] - 1 + p[:, :, 0]) ** 2 + p.amin(2) ** 2).mean(-1)


def _ccs(x: Tensor, restarts: int, steps: int, lr: float, seed: int, progress: bool) -> tuple[Tensor, Tensor, Tensor]:
    places, d = x.shape[0], x.shape[3]
    draw = torch.Generator().manual_seed(seed)
    start = (2 * torch.rand(places, restarts, d, generator=draw, dtype=x.dtype) - 1) / d**0.5
    with torch.enable_grad():
        theta = start.to(x.device).requires_grad_()
        bias = x.new_zeros(places, restarts, requires_grad=True)
        optimizer = torch.optim.AdamW([theta, bias], lr=lr)
        for _ in progress_bar(range(steps), "ccs", show=progress):
            optimizer.zero_grad()
            _loss(x, theta, bias).sum().backward()
            optimizer.step()
    loss = _loss(x, theta.detach(), bias.detach())
    best = loss.argmin(1)
    at = torch.arange(places, device=x.device)
    return theta.detach()[at, best], bias.detach()[at, best], loss[at, best]
