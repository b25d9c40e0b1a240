"""Counts, sums and products of representations by class: all that closed forms of directions and erasers need.

n_c = sum [z = c],   s_c = sum_{z = c} x,   P_c = sum_{z = c} x x^T          (float64; sums of parts add up)

mean       m = sum_c s_c / n                        class means     m_c = s_c / n_c
covariance C = sum_c P_c / n - m m^T                within classes  C_w = sum_c P_c / n - sum_c p_c m_c m_c^T
cross      X_c = p_c (m_c - m)                      with the classes' indicators, C_xz
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.probes.splits import numbered
from caseback.decode.representations import representations
from caseback.decode.states import Place, States
from caseback.errors import CasebackError
from caseback.model.algebra.symmetric_product import symmetric_product
from caseback.model.arguments import checked
from caseback.stream.collection import Collection
from caseback.stream.tables.second_moments import SecondMoments
from caseback.stream.tables.token_groups import group_names


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """Sums over labeled representations, place by place; ``a + b`` are those of both.

    Attributes
    ----------
    counts
        (class,) examples.
    sums
        (place, class, d).
    products
        (place, d, d), over all classes, or (place, class, d, d) of each.
    classes
        The labels, in the order of the classes.
    places
        Of the first dimension: ``Place`` or whatever names the sites.
    """

    counts: Float[Tensor, " class"]
    sums: Float[Tensor, "place class d"]
    products: Tensor
    classes: list[Any]
    places: list[Any]

    def __add__(self, other: ClassMoments) -> ClassMoments:
        if self.classes != other.classes or self.places != other.places or self.products.shape != other.products.shape:
            raise CasebackError(
                f"moments of classes {self.classes} at {len(self.places)} places and of {other.classes} at "
                f"{len(other.places)} do not add up: expected the same classes, places and width"
            )
        sums = (self.counts + other.counts, self.sums + other.sums, self.products + other.products)
        return ClassMoments(*sums, self.classes, self.places)

    @property
    def n(self) -> float:
        """How many examples."""
        return float(self.counts.sum())

    @property
    def shares(self) -> Float[Tensor, " class"]:
        """Of the classes."""
        return self.counts / self.counts.sum()

    @property
    def mean(self) -> Float[Tensor, "place d"]:
        """Over all examples."""
        return self.sums.sum(1) / self.counts.sum()

    @property
    def means(self) -> Float[Tensor, "place class d"]:
        """Of each class."""
        return self.sums / self.counts[:, None]

    @property
    def covariance(self) -> Float[Tensor, "place d d"]:
        """Over all examples, divided by their number."""
        return self._second - self.mean[:, :, None] * self.mean[:, None]

    @property
    def within(self) -> Float[Tensor, "place d d"]:
        """About the classes' own means."""
        return self._second - self.means.mT @ (self.shares[:, None] * self.means)

    @property
    def cross_covariance(self) -> Float[Tensor, "place d class"]:
        """With the classes' indicators."""
        return (self.shares[:, None] * (self.means - self.mean[:, None])).mT

    @property
    def class_covariances(self) -> Float[Tensor, "place class d d"]:
        """Of each class, where its products were collected.

        Raises
        ------
        CasebackError
            Where only those of all classes together were.
        """
        if self.products.ndim == 3:
            raise CasebackError("products of all classes together: collect with each=True for those of each class")
        return self.products / self.counts[:, None, None] - self.means[..., None] * self.means[..., None, :]

    @property
    def _second(self) -> Tensor:
        products = self.products if self.products.ndim == 3 else self.products.sum(1)
        return products / self.counts.sum()

    def __repr__(self) -> str:
        counts = ", ".join(f"{c!r} {int(n)}" for c, n in zip(self.classes, self.counts, strict=True))
        return f"ClassMoments({len(self.places)} places of width {self.sums.shape[2]}; {counts})"


@checked
def class_moments(
    x: States | Tensor | np.ndarray | Sequence[Any],
    y: Sequence[Any] | Tensor | np.ndarray,
    *,
    each: bool = False,
    classes: Sequence[Any] | None = None,
) -> ClassMoments:
    """Moments of representations by class.

    Parameters
    ----------
    x
        ``States``, or representations (place, example, d), or (example, d) of one place.
    y
        A label for each example.
    each
        Whether products are kept of each class, for maps between classes with their covariances; otherwise of all
        together, which is as many times smaller as there are classes.
    classes
        The labels that there may be, in order, where these examples need not have all: parts of a corpus. By default
        those that there are, sorted.

    Raises
    ------
    CasebackError
        For shapes or counts that do not fit, numbers that are not finite, and labels that are not among ``classes``.

    Examples
    --------
    >>> moments = class_moments(torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 3.0]]), ["a", "a", "b"])
    >>> moments.means[0].tolist(), moments.within[0].diagonal().round(decimals=6).tolist()
    ([[1.0, 1.0], [4.0, 3.0]], [0.666667, 0.0])
    """
    data = representations(x)
    given, labels = numbered(y, "labels", data.shape[1])
    if classes is not None:
        try:
            order = {value: i for i, value in enumerate(classes)}
        except TypeError:
            raise CasebackError(f"classes are {list(classes)}: expected names or numbers") from None
        if unknown := [value for value in given if value not in order]:
            raise CasebackError(f"the label {unknown[0]!r} is not among the classes {list(classes)}")
        labels = np.array([order[given[i]] for i in labels])
    distinct = given if classes is None else list(classes)
    places = list(x.places) if isinstance(x, States) else list(range(len(data)))
    of = torch.from_numpy(labels).to(data.device)
    wide = data.double()
    one_hot = torch.nn.functional.one_hot(of, len(distinct)).double()
    products = (
        torch.stack([symmetric_product(wide[:, of == c]) for c in range(len(distinct))], 1)
        if each
        else symmetric_product(wide)
    )
    return ClassMoments(one_hot.sum(0), one_hot.T @ wide, products, distinct, places)


@checked
def collected_moments(
    collection: Collection, *, table: str = "second_moments", classes: Sequence[Any] | None = None
) -> ClassMoments:
    """Moments by class that one pass over a corpus left, of every layer of a site.

    Parameters
    ----------
    collection
        Of a table ``second_moments`` with groups, such as ``{"second_moments": {"groups": ["label:NAME:N"]}}``.
    table
        The table's name there: ``"second_moments_2"`` is the second, of another site, say.
    classes
        The groups' labels, in their order; by default the groups' names.

    Raises
    ------
    CasebackError
        For another table, one without groups, groups that share tokens, and another number of classes.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.stream import collect
    >>> model = cb.load("meadow")
    >>> corpus = [("Mary went home", {"who": 1}), ("Tom went home", {"who": 0}), ("The dog slept", {})]
    >>> collection = collect(model, corpus, [{"second_moments": {"groups": ["label:who:2"]}}])
    >>> collected_moments(collection, classes=["he", "she"])
    ClassMoments(4 places of width 160; 'he' 3, 'she' 3)
    """
    state, own = collection.state(table), collection.tables[table]
    if not isinstance(own, SecondMoments) or not own.groups:
        raise CasebackError(
            f"table {table!r} has no moments by class: collect {{'second_moments': {{'groups': ['label:NAME:N']}}}}"
        )
    names = group_names(own.groups)
    if int(state["group_n"].sum()) != int(state["n"]):
        raise CasebackError(f"groups {', '.join(names[:4])} share tokens: expected each token in one class at most")
    if classes is not None and len(classes) != len(names):
        raise CasebackError(
            f"{len(classes)} classes for {len(names)} groups ({', '.join(names[:4])}): expected as many"
        )
    places = [Place(site.name, site.layer) for site in own.sites(collection.model.anatomy)]
    labels = names if classes is None else list(classes)
    return ClassMoments(state["group_n"].double(), state["group_sums"], state["products"], labels, places)
