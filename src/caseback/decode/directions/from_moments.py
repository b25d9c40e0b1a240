"""Directions from sums by class alone: those of a whole corpus at every layer and site, from one pass over it.

    mean_difference    w = m1 - m0              lda    w = C_w^-1 (m1 - m0)          C_w shrunk to its mean variance

No example is kept, so that none is held out: what is measured is of the examples that they were found on.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any, Literal

import torch
import xarray as xr

from caseback.decode.directions.directions import Directions
from caseback.decode.directions.estimators import OF_MOMENTS, closed_read_out
from caseback.decode.directions.find import separation, written
from caseback.decode.moments import ClassMoments
from caseback.decode.states import Place
from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.model.registry import technique


@technique(
    entry=("4.2.2",),
    citation="Marks & Tegmark 2023; Haufe et al. 2014",
    cost="for LDA a linear system a place; no model is run",
)
def directions_from_moments(
    moments: ClassMoments,
    *,
    method: Literal["mean_difference", "lda"] = "mean_difference",
    positive: Any = None,
    shrinkage: float = 0.1,
) -> Directions:
    """Find the direction from one class to another, at all places at once, from sums by class.

    Parameters
    ----------
    moments
        Of two classes: from ``collected_moments``, of every layer of a site in one pass over a corpus; from
        ``class_moments``, of which parts add up.
    method
        ``"mean_difference"`` or ``"lda"``, as ``find_directions`` has them.
    positive
        The class that the direction points to; by default the second.
    shrinkage
        Of LDA's covariance, towards its mean variance.

    Returns
    -------
    Directions
        ``norm`` is the root mean square of the states' lengths. ``table`` has by place ``auroc``, NaN since no example
        is held out; ``separation`` (between the classes' means in units of the standard deviation within), ``length``
        (of ``write``, relative to ``norm``) and ``cosine`` (of ``detect`` and ``write``), all of the examples that they
        were found on.

    Raises
    ------
    CasebackError
        For another number of classes than two, a class of no examples, moments that are not finite, classes that are
        alike, and a covariance that is singular.
    OutOfRange
        For ``shrinkage`` beyond 0 to 1.

    Notes
    -----
    Entry 4.2.2. ``find_directions`` gives the same of the examples that it does not hold out, and how well those that
    it does are told apart: judge these directions with ``Directions.scores`` on states that the moments are not of.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode import collected_moments
    >>> from caseback.stream import collect
    >>> model = cb.load("meadow")
    >>> corpus = [("Mary went home", {"who": 1}), ("Anna slept", {"who": 1}), ("Tom went home", {"who": 0})]
    >>> collection = collect(model, corpus, [{"second_moments": {"groups": ["label:who:2"]}}])
    >>> directions_from_moments(collected_moments(collection, classes=["he", "she"]), method="lda").names
    ['resid_post.0', 'resid_post.1', 'resid_post.2', 'resid_post.3']
    """
    if method not in OF_MOMENTS:
        raise CasebackError(f"method {method!r} needs the examples: expected {' or '.join(OF_MOMENTS)}")
    if not 0 <= shrinkage <= 1:
        raise OutOfRange(f"shrinkage {shrinkage}: expected 0 to 1")
    two = _ordered(moments, positive)
    places = [place if isinstance(place, Place) else Place("place", place) for place in two.places]
    w = closed_read_out(method, two, shrinkage)
    write, bias = written(method, w, two, places)
    squares = two.products.diagonal(dim1=-2, dim2=-1).sum(-1)
    norm = (squares.reshape(len(places), -1).sum(1) / two.n).sqrt()
    columns = {
        "auroc": torch.full_like(norm, torch.nan),
        "separation": separation(w, two),
        "length": write.norm(dim=1) / norm,
        "cosine": torch.cosine_similarity(w, write, dim=1),
    }
    arrays = {name: ("site", values.cpu().numpy()) for name, values in columns.items()}
    table = xr.Dataset(arrays, {"site": [str(place) for place in places]}, {"method": method, "n_train": int(two.n)})
    return Directions(w, write, bias, norm, places, (two.classes[0], two.classes[1]), table)


def _ordered(moments: ClassMoments, positive: Any) -> ClassMoments:
    """Moments of two classes, of which the positive one is the second.

    Raises
    ------
    CasebackError
        For others than two classes with examples, a class that is not one of them, and numbers that are not finite.
    """
    classes = moments.classes
    if len(classes) != 2:
        raise CasebackError(f"{len(classes)} classes: a direction goes from one class to another, expected two")
    if bool((moments.counts == 0).any()):
        raise CasebackError(f"no example is of the class {classes[int(moments.counts.argmin())]!r}")
    if not bool(moments.sums.isfinite().all()) or not bool(moments.products.isfinite().all()):
        raise CasebackError("the moments are not finite: some representations were not")
    if positive is not None and (not isinstance(positive, Hashable) or positive not in set(classes)):
        listed = [str(label) for label in classes]
        raise CasebackError(f"positive={positive!r} is not among the classes. {did_you_mean(str(positive), listed)}")
    if positive is None or positive == classes[1]:
        return moments
    products = moments.products if moments.products.ndim == 3 else moments.products.flip(1)
    return replace(
        moments, counts=moments.counts.flip(0), sums=moments.sums.flip(1), products=products, classes=classes[::-1]
    )
