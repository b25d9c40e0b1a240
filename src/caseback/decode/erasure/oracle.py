"""OracleLEACE: what a label says of a representation is subtracted, where the label is known.

    r(x, z) = x - C_xz C_zz^+ (z - m_z)            for classes: x - (m_c - m)

Of all maps of x and z with Cov(r, z) = 0 the one with the least change, less than LEACE's, which does not know z.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.erasure.eraser import addressed, fitting, share_left, warn_of_rest
from caseback.decode.erasure.shrinkage import optimal_linear_shrinkage
from caseback.decode.erasure.target_moments import (
    TargetMoments,
    as_targets,
    moments_of,
    target_covariance,
    target_mean,
)
from caseback.decode.moments import ClassMoments
from caseback.decode.probes.splits import listed_values
from caseback.decode.states import States
from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.model.registry import technique
from caseback.model.running.edits import Add, Edit, Index
from caseback.model.running.frames import Positions

Labels = Sequence[Any] | Tensor | np.ndarray


@dataclass(frozen=True, eq=False)
class OracleEraser:
    """What erases a concept where its labels are known.

    Attributes
    ----------
    coef
        (place, d, k) what a number, or the indicator of a class, adds to a representation.
    target_mean
        (k,) of the numbers or indicators.
    places
        Of the first dimension: ``Place`` where it was fitted to ``States``.
    classes
        In the order of indicators; None for numbers.
    change
        The mean square of r(x, z) - x at each place.
    """

    coef: Float[Tensor, "place d k"]
    target_mean: Float[Tensor, " k"]
    places: list[Any]
    classes: list[Any] | None
    change: list[float]

    def removed_of(self, z: Labels) -> Float[Tensor, "place example d"]:
        """What is taken from each example, given its label.

        Raises
        ------
        CasebackError
            For a label that it was not fitted to, or another number of columns.
        """
        numbers = self._numbers(z).to(self.coef)
        return (numbers - self.target_mean) @ self.coef.mT

    def apply(self, x: States | Float[Tensor, "place example d"], z: Labels) -> Any:
        """Erase from states whose labels are known.

        Parameters
        ----------
        x
            ``States`` of the eraser's places, a tensor (place, example, d), or (example, d) where there is one place.
        z
            A label for each example, or its numbers.

        Returns
        -------
        States or Tensor
            As it was given.

        Raises
        ------
        CasebackError
            For other places, another width, another count of labels, or a label that it does not know.
        """
        data = fitting(x, self.places, self.coef.shape[1])
        removed = self.removed_of(z)
        if removed.shape[1] != data.shape[1]:
            raise CasebackError(f"{removed.shape[1]} labels for {data.shape[1]} examples: expected one for each")
        erased = data - removed.to(data)
        return replace(x, x=erased) if isinstance(x, States) else erased.reshape(x.shape)

    def edits(self, z: Labels, pos: Positions = None, prompt: Index = None) -> list[Edit]:
        """The eraser as edits, one for each place.

        Parameters
        ----------
        z
            A label for each prompt of the batch, or its numbers.
        pos
            Positions of each prompt; all by default.
        prompt
            Prompts of the batch; all by default.

        Raises
        ------
        CasebackError
            For a label that it does not know, or where it was not fitted to ``States``.
        """
        return per_prompt(addressed(self.places), -self.removed_of(z), pos, prompt)

    def each(self) -> dict[str, OracleEraser]:
        """An eraser of each place alone, by the place's name."""
        parts = zip(self.coef.split(1), self.places, self.change, strict=True)
        return {str(place): replace(self, coef=coef, places=[place], change=[size]) for coef, place, size in parts}

    def _numbers(self, z: Labels) -> Float[Tensor, "example k"]:
        values = listed_values(z, "labels")
        if self.classes is None:
            numbers = as_targets(values, len(values))
            if numbers.shape[1] != len(self.target_mean):
                raise CasebackError(f"{numbers.shape[1]} numbers for each example: expected {len(self.target_mean)}")
            return numbers
        return indicators(values, self.classes)

    def __repr__(self) -> str:
        of = f"{self.coef.shape[2]} numbers" if self.classes is None else f"{len(self.classes)} classes"
        return f"OracleEraser({len(self.places)} places of width {self.coef.shape[1]}, {of})"


def indicators(values: list[Any], classes: list[Any]) -> Float[Tensor, "example class"]:
    """Which class each label is.

    Raises
    ------
    CasebackError
        For a label that is not among the classes.
    """
    order = {label: i for i, label in enumerate(classes)}
    if unknown := [value for value in values if not isinstance(value, Hashable) or value not in order]:
        hint = did_you_mean(str(unknown[0]), [str(label) for label in classes])
        raise CasebackError(f"the label {unknown[0]!r} is not among those that were erased. {hint}")
    which = torch.tensor([order[value] for value in values], dtype=torch.long)
    return torch.nn.functional.one_hot(which, len(order)).double()


def per_prompt(places: list[Any], values: Float[Tensor, "place batch d"], pos: Positions, prompt: Index) -> list[Edit]:
    """Values of each prompt, added at some positions of it."""
    single = isinstance(pos, int) or (isinstance(pos, Tensor) and pos.ndim < 2)
    return [
        Add(value=value if single else value[:, None], pos=pos, prompt=prompt, **place.address)
        for place, value in zip(places, values, strict=True)
    ]


@technique(
    entry=("4.2.7",),
    citation="Belrose et al. 2023",
    cost="the pseudoinverse of the labels' covariance; no model is run",
)
def oracle_leace(
    x: ClassMoments | TargetMoments | States | Tensor | np.ndarray | Sequence[Any],
    y: Sequence[Any] | Tensor | np.ndarray | None = None,
    *,
    numeric: bool = False,
    shrinkage: bool = False,
    svd_tol: float = 0.01,
) -> OracleEraser:
    """Erase a concept from representations whose labels are known when it is erased: the least change of all.

    Parameters
    ----------
    x
        Moments of representations, ``States``, or representations (place, example, d), or (example, d) of one place.
    y
        A label for each example; with ``numeric`` numbers (example,) or (example, k). None with moments.
    numeric
        Whether ``y`` are numbers rather than names of classes.
    shrinkage
        Whether the covariance of the labels is shrunk toward their mean variance.
    svd_tol
        Singular values of the labels' covariance up to this are left: a class of a smaller share is not erased.

    Returns
    -------
    OracleEraser
        ``apply(x, z)`` and ``edits(z)`` take the labels.

    Raises
    ------
    CasebackError
        For one class, no more examples than classes, numbers that are not finite, shapes or counts that do not fit.
    OutOfRange
        For ``svd_tol`` that is not positive.

    Notes
    -----
    Entry 4.2.7: Belrose et al. 2023.

    Examples
    --------
    >>> x, y = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]]), ["a", "a", "b"]
    >>> oracle_leace(x, y).apply(x, y).round(decimals=4).tolist()
    [[1.0, 2.0], [3.0, 2.0], [2.0, 2.0]]
    """
    if not 0 < svd_tol < float("inf"):
        raise OutOfRange(f"svd_tol {svd_tol}: expected a positive number")
    moments = moments_of(x, y, numeric)
    unbiased = moments.n / (moments.n - 1)
    cross, targets = moments.cross_covariance, target_covariance(moments)
    sigma = optimal_linear_shrinkage(targets, moments.n) if shrinkage else targets * unbiased
    coef = (cross * unbiased) @ torch.linalg.pinv(sigma, atol=svd_tol, rtol=0.0, hermitian=True)
    change = (coef @ targets * coef).sum((1, 2))
    if not shrinkage:
        left = share_left(moments, cross - coef @ targets)
        warn_of_rest([str(place) for place in moments.places], left.tolist(), svd_tol)
    classes = list(moments.classes) if isinstance(moments, ClassMoments) else None
    return OracleEraser(coef, target_mean(moments), list(moments.places), classes, change.tolist())
