"""Quadratic LEACE: every class is moved onto one Gaussian, so that its mean and covariance tell it from no other.

    r(x, c) = m + A_c (x - m_c),      A_c S_c A_c = S,      m = sum_c p_c m_c

with m_c, S_c the mean and covariance of class c, p_c its share, and S the Wasserstein barycenter of all S_c, the fixed
point of S = T S T, T = sum_c p_c T_c, T_c S T_c = S_c. Of all maps of x and c that give the classes one mean and one
covariance it changes Gaussian states least. LEACE makes means alone alike, which linear classifiers need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.directions.estimators import singular
from caseback.decode.erasure.eraser import addressed, fitting
from caseback.decode.erasure.oracle import Labels, indicators
from caseback.decode.erasure.shrinkage import optimal_linear_shrinkage
from caseback.decode.erasure.target_moments import moments_of
from caseback.decode.moments import ClassMoments, class_moments
from caseback.decode.probes.splits import listed_values
from caseback.decode.states import States
from caseback.decode.steering.transport import transport_map
from caseback.errors import CasebackError
from caseback.model.registry import technique
from caseback.model.running.affine import Affine
from caseback.model.running.edits import Edit
from caseback.model.running.frames import Positions

_STEPS = 100  # of the fixed point, as the authors' package has it; it converges in some ten


@dataclass(frozen=True, eq=False)
class QuadraticEraser:
    """What erases a concept, means and covariances, where its labels are known.

    Attributes
    ----------
    maps
        (place, class, d, d), of each class onto the covariance that all have afterwards.
    means
        (place, class, d).
    mean
        (place, d), which all classes have afterwards.
    places
        Of the first dimension: ``Place`` where it was fitted to ``States``.
    classes
        In the order of the second.
    """

    maps: Float[Tensor, "place class d d"]
    means: Float[Tensor, "place class d"]
    mean: Float[Tensor, "place d"]
    places: list[Any]
    classes: list[Any]

    def apply(self, x: States | Float[Tensor, "place example d"], z: Labels) -> Any:
        """Erase from states whose labels are known.

        Parameters
        ----------
        x
            ``States`` of the eraser's places, a tensor (place, example, d), or (example, d) where there is one place.
        z
            A label for each example.

        Returns
        -------
        States or Tensor
            As it was given.

        Raises
        ------
        CasebackError
            For other places, another width, another count of labels, or a label that it does not know.
        """
        data = fitting(x, self.places, self.mean.shape[1])
        which = self._of(z)
        if len(which) != data.shape[1]:
            raise CasebackError(f"{len(which)} labels for {data.shape[1]} examples: expected one for each")
        erased = torch.empty_like(data)
        for c in range(len(self.classes)):
            rows = (which == c).to(data.device)
            away = data[:, rows] - self.means[:, None, c].to(data)
            erased[:, rows] = self.mean[:, None].to(data) + away @ self.maps[:, c].mT.to(data)
        return replace(x, x=erased) if isinstance(x, States) else erased.reshape(x.shape)

    def edits(self, z: Labels, pos: Positions = None) -> list[Edit]:
        """The eraser as edits, one for each place and each class among the labels.

        Parameters
        ----------
        z
            A label for each prompt of the batch.
        pos
            Positions of each prompt; all by default.

        Raises
        ------
        CasebackError
            For a label that it does not know, or where it was not fitted to ``States``.
        """
        which, eye = self._of(z), torch.eye(self.mean.shape[1]).to(self.maps)
        rows = {c: (which == c).nonzero()[:, 0].tolist() for c in range(len(self.classes))}
        return [
            Affine(
                read=self.maps[i, c] - eye,
                center=self.means[i, c],
                offset=self.mean[i] - self.means[i, c],
                **place.address,
                pos=pos,
                prompt=rows[c],
            )
            for i, place in enumerate(addressed(self.places))
            for c in rows
            if rows[c]
        ]

    def each(self) -> dict[str, QuadraticEraser]:
        """An eraser of each place alone, by the place's name."""
        parts = zip(self.maps.split(1), self.means.split(1), self.mean.split(1), self.places, strict=True)
        return {
            str(place): replace(self, maps=maps, means=means, mean=mean, places=[place])
            for maps, means, mean, place in parts
        }

    def _of(self, z: Labels) -> Tensor:
        return indicators(listed_values(z, "labels"), self.classes).argmax(1)

    def __repr__(self) -> str:
        return f"QuadraticEraser({len(self.places)} places of width {self.mean.shape[1]}, {len(self.classes)} classes)"


@technique(
    entry=("4.2.7",),
    citation="Belrose et al. 2023",
    cost="for each class and place eigendecompositions, four for two classes and some forty for more; no model is run",
)
def quadratic_leace(
    x: ClassMoments | States | Tensor | np.ndarray | Sequence[Any],
    y: Sequence[Any] | Tensor | np.ndarray | None = None,
    *,
    shrinkage: bool = True,
) -> QuadraticEraser:
    """Erase a concept from means and covariances of representations whose labels are known when it is erased.

    Parameters
    ----------
    x
        Moments (``class_moments`` with ``each=True``), ``States``, or representations (place, example, d), or
        (example, d) of one place.
    y
        A label for each example. None with moments.
    shrinkage
        Whether each class's covariance is shrunk toward its mean variance, which few examples need; without it the
        classes' covariances are alike exactly.

    Returns
    -------
    QuadraticEraser
        ``apply(x, z)`` and ``edits(z)`` take the labels.

    Raises
    ------
    CasebackError
        For one class, a class of one example, numbers that are not finite, moments without products of each class, and
        a class whose covariance is singular.

    Notes
    -----
    Entry 4.2.7, QLEACE, as the package of Belrose et al. 2023 (concept-erasure) has it, but for the mean that all
    classes have afterwards: there that of the classes' means, here that of all examples, which moves them less.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(400, 3, generator=draw).double(), torch.randint(2, (400,), generator=draw)
    >>> x[y == 1] *= 4
    >>> r = quadratic_leace(x, y, shrinkage=False).apply(x, y)
    >>> bool(torch.allclose(r[y == 0].T.cov(), r[y == 1].T.cov()))
    True
    """
    if not isinstance(x, ClassMoments) and y is not None:
        x, y = class_moments(x, y, each=True), None
    moments = moments_of(x, y, numeric=False)
    if not isinstance(moments, ClassMoments):
        raise CasebackError("these moments are with numbers: expected those of classes, of class_moments(each=True)")
    if bool((alone := moments.counts < 2).any()):
        raise CasebackError(f"one example is of the class {moments.classes[int(alone.nonzero()[0])]!r}: expected two")
    observed, counts = moments.class_covariances, moments.counts.tolist()
    estimates = [
        optimal_linear_shrinkage(observed[:, c], n) if shrinkage else observed[:, c] * (n / (n - 1))
        for c, n in enumerate(counts)
    ]
    own = torch.stack(estimates, 1)
    flat = singular(own)
    if bool(flat.any()):
        place, c = flat.nonzero()[0].tolist()
        raise CasebackError(
            f"the covariance of class {moments.classes[c]!r} at {moments.places[place]} is singular "
            f"({int(counts[c])} examples of width {own.shape[-1]}): give more examples, or shrinkage=True"
        )
    center = barycenter(own, moments.shares)
    maps = transport_map(own, center[:, None].expand_as(own))
    return QuadraticEraser(maps, moments.means, moments.mean, list(moments.places), list(moments.classes))


def barycenter(
    covariances: Float[Tensor, "place class d d"], shares: Float[Tensor, " class"]
) -> Float[Tensor, "place d d"]:
    """The covariance onto which Gaussians are moved with the least change, in these shares.

    Of two it lies on the way from one to the other: p_0 of the identity and p_1 of the map there, twice applied.

    Examples
    --------
    >>> both = torch.tensor([1.0, 9.0]).view(1, 2, 1, 1).double()
    >>> barycenter(both, torch.tensor([0.5, 0.5])).round(decimals=6).item()
    4.0
    """
    weights = shares.to(covariances).view(1, -1, 1, 1)
    if covariances.shape[1] == 2:
        step = weights[:, 1] * transport_map(covariances[:, 0], covariances[:, 1])
        step.diagonal(dim1=1, dim2=2).add_(weights[0, 0, 0, 0])
        return step @ covariances[:, 0] @ step
    center = (weights * covariances).sum(1)
    for _ in range(_STEPS):
        step = (weights * transport_map(center[:, None].expand_as(covariances), covariances)).sum(1)
        before, center = center, step @ center @ step
        if bool(torch.linalg.matrix_norm(center - before).le(1e-14 * torch.linalg.matrix_norm(center)).all()):
            break
    return center
