"""Sums over representations and what is to be erased from them, where that is numbers; for classes: ``ClassMoments``.

C_xx = sum x x^T / n - m m^T        C_xz = sum x z^T / n - m m_z^T        C_zz = sum z z^T / n - m_z m_z^T
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.moments import ClassMoments, class_moments
from caseback.decode.representations import representations
from caseback.decode.states import States
from caseback.errors import CasebackError
from caseback.model.algebra.symmetric_product import symmetric_product
from caseback.model.arguments import checked


@dataclass(frozen=True, eq=False)
class TargetMoments:
    """Sums over representations with numbers, place by place; ``a + b`` are those of both.

    Attributes
    ----------
    n
        How many examples.
    sums, products
        (place, d) and (place, d, d), of representations.
    target_sums, target_products
        (k,) and (k, k), of the numbers.
    cross
        (place, d, k), of both.
    places
        Of the first dimension: ``Place`` or whatever names the sites.
    """

    n: float
    sums: Float[Tensor, "place d"]
    products: Float[Tensor, "place d d"]
    target_sums: Float[Tensor, " k"]
    target_products: Float[Tensor, "k k"]
    cross: Float[Tensor, "place d k"]
    places: list[Any]

    def __add__(self, other: TargetMoments) -> TargetMoments:
        if self.places != other.places or self.cross.shape != other.cross.shape:
            raise CasebackError(
                f"moments {tuple(self.cross.shape)} (place, d, k) and {tuple(other.cross.shape)} do not add up: "
                "expected the same places, width and numbers"
            )
        sums = {part.name: getattr(self, part.name) + getattr(other, part.name) for part in fields(self)[:-1]}
        return TargetMoments(**sums, places=self.places)

    @property
    def mean(self) -> Float[Tensor, "place d"]:
        """Over all examples."""
        return self.sums / self.n

    @property
    def target_mean(self) -> Float[Tensor, " k"]:
        """Of the numbers."""
        return self.target_sums / self.n

    @property
    def covariance(self) -> Float[Tensor, "place d d"]:
        """Of representations, divided by the number of examples."""
        return self.products / self.n - self.mean[:, :, None] * self.mean[:, None]

    @property
    def cross_covariance(self) -> Float[Tensor, "place d k"]:
        """Of representations with the numbers."""
        return self.cross / self.n - self.mean[:, :, None] * self.target_mean

    @property
    def target_covariance(self) -> Float[Tensor, "k k"]:
        """Of the numbers."""
        return self.target_products / self.n - torch.outer(self.target_mean, self.target_mean)

    def __repr__(self) -> str:
        places, d, k = self.cross.shape
        return f"TargetMoments({places} places of width {d}, {k} numbers; {int(self.n)} examples)"


Moments = ClassMoments | TargetMoments


@checked
def target_moments(
    x: States | Tensor | np.ndarray | Sequence[Any], z: Tensor | np.ndarray | Sequence[Any]
) -> TargetMoments:
    """Moments of representations with numbers, such as a year, a length, or several of them.

    Parameters
    ----------
    x
        ``States``, or representations (place, example, d), or (example, d) of one place.
    z
        (example,) or (example, k).

    Raises
    ------
    CasebackError
        For shapes or counts that do not fit, and numbers that are not finite.

    Examples
    --------
    >>> moments = target_moments(torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]]), [1.0, 2.0, 3.0])
    >>> moments.cross_covariance[0].flatten().round(decimals=6).tolist()
    [1.333333, 1.0]
    """
    data = representations(x).double()
    numbers = as_targets(z, data.shape[1]).to(data.device)
    places = list(x.places) if isinstance(x, States) else list(range(len(data)))
    return TargetMoments(
        float(len(numbers)),
        data.sum(1),
        symmetric_product(data),
        numbers.sum(0),
        numbers.T @ numbers,
        data.mT @ numbers,
        places,
    )


def as_targets(z: Any, n: int) -> Float[Tensor, "example k"]:
    """Numbers of each example.

    Raises
    ------
    CasebackError
        For what is no table of finite numbers with ``n`` rows.
    """
    try:
        if isinstance(z, Tensor) and (z.is_complex() or z.is_meta or z.layout != torch.strided):
            raise ValueError
        numbers = torch.as_tensor(z, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise CasebackError("what is to be erased is no numbers: leave numeric=False for labels of classes") from None
    numbers = numbers[:, None] if numbers.ndim == 1 else numbers
    if numbers.ndim != 2 or len(numbers) != n or not numbers.numel():
        raise CasebackError(f"numbers of shape {tuple(numbers.shape)} for {n} examples: expected (example, k)")
    if not bool(numbers.isfinite().all()):
        raise CasebackError("what is to be erased holds numbers that are not finite: leave those examples out")
    return numbers


def moments_of(x: Any, y: Any, numeric: bool) -> Moments:
    """Moments as they are given, or of representations with labels or numbers, from which something can be erased.

    Raises
    ------
    CasebackError
        For one class, a class without examples, as many classes as examples, numbers that are all the same, and moments
        together with labels.
    """
    if isinstance(x, Moments):
        if y is not None:
            raise CasebackError("moments hold the labels that they were collected with: give no others")
        moments = x
    elif y is None:
        raise CasebackError("no labels are given: expected one for each example, or moments")
    else:
        moments = target_moments(x, y) if numeric else class_moments(x, y)
    if isinstance(moments, ClassMoments):
        if len(moments.classes) < 2:
            raise CasebackError(f"all labels are {moments.classes[0]!r}: erasing needs two classes or more")
        if bool((empty := moments.counts == 0).any()):
            raise CasebackError(f"no example is of the class {moments.classes[int(empty.nonzero()[0])]!r}")
        if moments.n <= len(moments.classes):
            raise CasebackError(
                f"{int(moments.n)} examples of {len(moments.classes)} classes: expected more examples than classes"
                " (for numbers give numeric=True)"
            )
    elif moments.n < 2 or bool((moments.target_covariance.diagonal() <= 0).all()):
        raise CasebackError(f"the numbers of {int(moments.n)} examples do not vary: there is nothing to erase")
    if not bool(moments.covariance.isfinite().all() and moments.cross_covariance.isfinite().all()):
        raise CasebackError("the moments hold numbers that are not finite: collect them of finite representations")
    return moments


def target_covariance(moments: Moments) -> Float[Tensor, "k k"]:
    """Of the numbers, or of the classes' indicators."""
    if isinstance(moments, TargetMoments):
        return moments.target_covariance
    return torch.diag(moments.shares) - torch.outer(moments.shares, moments.shares)


def target_mean(moments: Moments) -> Float[Tensor, " k"]:
    """Of the numbers, or of the classes' indicators."""
    return moments.target_mean if isinstance(moments, TargetMoments) else moments.shares
