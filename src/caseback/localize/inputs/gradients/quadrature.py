"""Quadratures on [0, 1]: rules with a number of nodes, and one that puts its nodes where they are needed.

    integral_0^1 f(a) da  =~  sum_k w_k f(a_k)

``Panels`` is Boole's rule on panels of 5 equidistant nodes, (7, 32, 12, 32, 7) / 90 of the width. Of a gradient along
a path it is known what each panel's integral must be, the metric's change over it; so the panels that miss it most are
halved, and a half keeps 3 of its 5 nodes from before.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.model.anatomy.coerce import in_float64


def gauss_legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes in (0, 1) and weights that integrate polynomials up to degree 2n - 1 exactly.

    Examples
    --------
    >>> at, weight = gauss_legendre(2)
    >>> round(float((weight * at**3).sum()), 12)
    0.25
    """
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return (nodes + 1) / 2, weights / 2


def _riemann(offset: float):
    return lambda n: ((np.arange(n) + offset) / n, np.full(n, 1 / n))


def _trapezoid(n: int) -> tuple[np.ndarray, np.ndarray]:
    if n < 2:
        raise OutOfRange(f"the trapezoid rule needs at least 2 steps, {n} given")
    weights = np.full(n, 1 / (n - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, n), weights


RULES = {
    "gauss_legendre": gauss_legendre,
    "riemann_left": _riemann(0.0),
    "riemann_right": _riemann(1.0),
    "riemann_middle": _riemann(0.5),
    "trapezoid": _trapezoid,
}

_BOOLE = np.array([7, 32, 12, 32, 7]) / 90
_SIMPSON = np.array([1, 0, 4, 0, 1]) / 6
_START = ((0.0, 0.5), (0.5, 1.0))
FEWEST = 9
"""Nodes that ``Panels`` begins with."""
_NARROWEST = 2.0**-40
_HALVED = 2  # panels in a round: two keep a batch full, and hardly waste a point


@dataclass
class Panels:
    """One path's integral, refined where the integrand's own antiderivative says that it is off.

    Give ``put`` the nodes that ``wanted`` asks for until it asks for none.

    Attributes
    ----------
    tolerance
        How far the integral's sum may be from the change that it should make. The panels' misses, whatever their
        signs, may then add up to three times that, so that it is not met by chance.
    most
        At most so many nodes, 9 or more.

    Examples
    --------
    >>> panels = Panels(tolerance=1e-9, most=500)
    >>> while nodes := panels.wanted():
    ...     for a in nodes:
    ...         panels.put(a, torch.tensor([3 * a**2, 1.0]), a**3 + a)
    >>> panels.integral()
    tensor([1., 1.], dtype=torch.float64)
    """

    tolerance: float
    most: int
    values: dict[float, Float[Tensor, " score"]] = field(default_factory=dict)
    heights: dict[float, float] = field(default_factory=dict)
    edges: list[tuple[float, float]] = field(default_factory=lambda: list(_START))
    tight: float = 0.0
    """Misses below this, per panel, are rounding."""

    def put(self, at: float, value: Float[Tensor, " score"], height: float) -> None:
        """Record the integrand at a node, and the antiderivative of its sum there."""
        self.values[at], self.heights[at] = in_float64(value), height

    def wanted(self) -> list[float]:
        """The nodes to evaluate next; none when the tolerance is met, or cannot be with the nodes that are left."""
        if not self._missing() and not self.reached():
            self._refine()
        return self._missing()

    def _refine(self) -> None:
        """Halve the two panels that miss most, while the others miss more than half the tolerance.

        No more at a time: what the third needs shows when these are halved, and points are few.
        """
        misses = self.misses()
        rest = sum(map(abs, misses.values()))
        left = self.most - len(self.values)
        able = [edge for edge in misses if abs(misses[edge]) > self.tight and edge[1] - edge[0] > _NARROWEST]
        for edge in sorted(able, key=lambda edge: -abs(misses[edge]))[:_HALVED]:
            low, high = edge
            if rest <= self.tolerance / 2 or left < 4:
                break
            rest -= abs(misses[edge])
            left -= 4  # a half has 2 nodes of its own
            self.edges.remove(edge)
            self.edges += [(low, (low + high) / 2), ((low + high) / 2, high)]

    def reached(self) -> bool:
        """Whether the integral is within the tolerance."""
        misses = self.misses().values()
        return (
            abs(sum(misses)) <= self.tolerance
            and sum(map(abs, misses)) <= 3 * self.tolerance + len(self.edges) * self.tight
        )

    def misses(self) -> dict[tuple[float, float], float]:
        """By how much each panel's integral, summed, misses the antiderivative's change."""
        return {edge: float(self._panel(edge, _BOOLE).sum()) - self.rise(edge) for edge in self.edges}

    def steepest(self) -> tuple[float, float]:
        """The panel that misses most."""
        misses = self.misses()
        return max(misses, key=lambda edge: abs(misses[edge]))

    def rise(self, edge: tuple[float, float]) -> float:
        """By how much the antiderivative changes over a panel."""
        return self.heights[edge[1]] - self.heights[edge[0]]

    def integral(self) -> Float[Tensor, " score"]:
        """The integral of each score."""
        return sum((self._panel(edge, _BOOLE) for edge in self.edges), torch.zeros((), dtype=torch.float64))

    def change(self) -> Float[Tensor, " score"]:
        """What each score would change by under Simpson's rule, on 3 of every panel's nodes: an upper estimate."""
        simpson = sum((self._panel(edge, _SIMPSON) for edge in self.edges), torch.zeros((), dtype=torch.float64))
        return (self.integral() - simpson).abs()

    def _missing(self) -> list[float]:
        return list(dict.fromkeys(a for edge in self.edges for a in _nodes(edge) if a not in self.values))

    def _panel(self, edge: tuple[float, float], weights: np.ndarray) -> Float[Tensor, " score"]:
        nodes = torch.stack([self.values[a] for a in _nodes(edge)])
        return (edge[1] - edge[0]) * (torch.from_numpy(weights).to(nodes) @ nodes)


def _nodes(edge: tuple[float, float]) -> list[float]:
    low, high = edge
    return [low + (high - low) * k / 4 for k in range(5)]
