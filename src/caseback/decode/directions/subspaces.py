"""Subspaces of a concept with several values, of any rank, at all places at once.

    means     the span of m_c - m, of which most is scattered most:  S_b = sum p_c (m_c - m)(m_c - m)^T
    lda       directions v that make  v S_b v / v C_w v  largest, C_w shrunk: they read out
    pairs     principal components of pairs' differences, about zero

A rank-1 subspace is a direction without its sign. ``cb.Project`` removes one, ``cb.Swap`` exchanges it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from caseback.decode.directions.estimators import shrunk
from caseback.decode.directions.find import places_of
from caseback.decode.moments import class_moments
from caseback.decode.probes.splits import numbered
from caseback.decode.representations import representations
from caseback.errors import CasebackError, OutOfRange
from caseback.model.registry import technique
from caseback.model.results import labelled


@technique(entry=("4.2.2",), citation="Fisher 1936; Zou et al. 2023", cost="decompositions of d x d matrices")
def concept_subspace(
    x: Any,
    y: Sequence[Any] | Tensor | np.ndarray,
    *,
    rank: int = 1,
    method: Literal["means", "lda", "pairs"] = "means",
    pairs: Sequence[Any] | Tensor | np.ndarray | None = None,
    sites: Sequence[Any] | None = None,
    shrinkage: float = 0.1,
) -> xr.DataArray:
    """Find an orthonormal basis of the subspace in which classes differ.

    Parameters
    ----------
    x
        ``States``, or representations (place, example, d), or (example, d) of one place.
    y
        A label for each example, of two classes or more.
    rank
        Of the subspace; up to one less than there are classes, with ``"pairs"`` up to the number of pairs.
    method
        ``"means"``, ``"lda"`` or ``"pairs"``.
    pairs
        With ``"pairs"``: of each example its pair, two in each.
    sites
        Names of the places, where ``x`` does not bring them.
    shrinkage
        Of LDA's covariance, towards its mean variance.

    Returns
    -------
    xr.DataArray
        (site, k, d_model), orthonormal rows, most telling first; the coordinate ``share`` (site, k) is what part of
        the scatter between classes (of pairs: of the differences' second moment) each has.

    Raises
    ------
    CasebackError
        For a rank that the classes or pairs do not have, or pairs that are none.

    Examples
    --------
    >>> y = torch.arange(300) % 3
    >>> x = torch.randn(1, 300, 8, generator=torch.Generator().manual_seed(0)) / 10 + torch.eye(8)[y]
    >>> basis = concept_subspace(x, y, rank=2)
    >>> bool(abs(basis.values[0, :, 3:]).max() < 0.1), round(float(basis.share.sum()), 3)
    (True, 1.0)
    """
    data = representations(x)
    classes, labels = numbered(y, "labels", data.shape[1])
    if len(classes) < 2:
        raise CasebackError(f"all labels are {classes[0]!r}: expected two classes or more")
    if not 0 <= shrinkage <= 1:
        raise OutOfRange(f"shrinkage {shrinkage}: expected 0 to 1")
    moments = class_moments(data, labels)
    apart = moments.means - moments.mean[:, None]
    if method == "pairs":
        if pairs is None:
            raise CasebackError("method 'pairs' needs pairs=: of each example the pair that it is in")
        of = numbered(pairs, "pairs", data.shape[1])[1]
        order = np.argsort(of, kind="stable")
        if (np.bincount(of) != 2).any():
            raise CasebackError("pairs are of other numbers of examples than two: expected two in each")
        rows = data[:, order[1::2]].double() - data[:, order[::2]].double()
    else:
        rows = moments.shares.sqrt()[:, None] * apart
    most = min(len(classes) - 1 if method != "pairs" else rows.shape[1], data.shape[2])
    if not 1 <= rank <= most:
        raise OutOfRange(f"rank {rank}: expected 1 to {most}, which is all that these {method} span")
    if method == "lda":
        values, vectors = torch.linalg.eigh(shrunk(moments.within, shrinkage))
        if not bool((values[:, 0] > 0).all()):
            raise CasebackError("the covariance within classes has no inverse: give shrinkage above 0")
        white = (vectors / values.sqrt()[:, None]) @ vectors.mT
        best = white @ torch.linalg.svd(rows @ white, full_matrices=False)[2][:, :rank].mT
        basis = torch.linalg.qr(best)[0].mT
    else:
        basis = torch.linalg.svd(rows, full_matrices=False)[2][:, :rank]
    share = (rows @ basis.mT).square().sum(1) / rows.square().sum((1, 2))[:, None]
    return labelled(
        basis,
        ["site", "k", "d_model"],
        {"site": [str(place) for place in places_of(x, data, sites)], "share": (("site", "k"), share.cpu().numpy())},
        name="basis",
        technique=concept_subspace,
        method=method,
        classes=[str(c) for c in classes],
    )
