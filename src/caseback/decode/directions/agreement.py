"""How far directions agree: those found in several ways or of several concepts, place by place, and one over places.

cos(u, v) = u^T M v / sqrt(u^T M u  v^T M v)         M the identity, or an inner product that is given
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.directions.directions import Directions
from caseback.errors import CasebackError
from caseback.model.registry import technique
from caseback.model.results import labelled


@technique(entry=("4.2.2",), citation="Tigges et al. 2023; Park et al. 2024", cost="products of vectors")
def direction_agreement(
    directions: Mapping[str, Directions],
    *,
    of: Literal["detect", "write"] = "write",
    inner: Tensor | np.ndarray | None = None,
) -> xr.DataArray:
    """Cosines of directions at the same places.

    Parameters
    ----------
    directions
        By name; all at the same places.
    of
        What detects, or what writes: they agree in different ways.
    inner
        An inner product (d, d) or one for each place (place, d, d), such as ``causal_inner_product(model)`` or a
        covariance's inverse; Euclidean by default.

    Returns
    -------
    xr.DataArray
        (site, attribution, attribution_to). ``attrs["by_chance"]`` is the largest size, in 95 of 100 draws, of the
        cosine of two random directions, 1.96 / sqrt(d): cosines in real streams are larger by far, since these are not
        round.

    Raises
    ------
    CasebackError
        For directions at other places, or an inner product of another width.

    Examples
    --------
    >>> from caseback.decode.directions import find_directions
    >>> draw = torch.Generator().manual_seed(0)
    >>> y = torch.arange(80) % 2
    >>> x = torch.randn(1, 80, 6, generator=draw) + 3 * y[:, None]
    >>> ways = {way: find_directions(x, y, method=way) for way in ("mean_difference", "pca")}
    >>> bool(direction_agreement(ways)[0, 0, 1] > 0.95)
    True
    """
    if not directions:
        raise CasebackError("no directions are given: expected some by name")
    for name, value in directions.items():
        if not isinstance(value, Directions):
            raise CasebackError(f"{name!r} is a {type(value).__name__}: expected Directions, as find_directions gives")
    first = next(iter(directions.values()))
    for name, value in directions.items():
        if value.names != first.names or value.detect.shape != first.detect.shape:
            raise CasebackError(f"the directions {name!r} are at other places, or of another width, than the first")
    vectors = torch.stack([getattr(value, of) for value in directions.values()], 1).cpu().double()
    cosines = _cosines(vectors, inner)
    names = list(directions)
    return labelled(
        cosines,
        ["site", "attribution", "attribution_to"],
        {"site": first.names, "attribution": names, "attribution_to": names},
        name="cosine",
        technique=direction_agreement,
        of=of,
        by_chance=1.96 / vectors.shape[-1] ** 0.5,
    )


@technique(entry=("4.2.2",), citation="Tigges et al. 2023; Park et al. 2024", cost="products of vectors")
def place_agreement(
    directions: Directions,
    *,
    of: Literal["detect", "write"] = "write",
    inner: Tensor | np.ndarray | None = None,
) -> xr.DataArray:
    """Cosines of the directions at all places with each other: over which layers is it one direction?

    Parameters
    ----------
    directions
        At some places of one space, such as the layers of ``"resid_post"``.
    of
        What detects, or what writes.
    inner
        An inner product (d, d), such as ``causal_inner_product(model)``; Euclidean by default.

    Returns
    -------
    xr.DataArray
        (site, site_to), with ``by_chance`` as ``direction_agreement`` has it.

    Raises
    ------
    CasebackError
        For an inner product of another width.

    Notes
    -----
    Entry 4.2.2. Places of unlike sites have their cosines too, which say something where both write to one stream.

    Examples
    --------
    >>> from caseback.decode.directions import find_directions
    >>> draw = torch.Generator().manual_seed(0)
    >>> y = torch.arange(80) % 2
    >>> x = torch.randn(3, 80, 6, generator=draw)
    >>> x[:2, :, 0] += 8 * y
    >>> x[2, :, 5] += 8 * y
    >>> found = find_directions(x, y, sites=["embed", ("resid_post", 0), ("resid_post", 1)])
    >>> place_agreement(found)[0].values.round(0).tolist()
    [1.0, 1.0, 0.0]
    """
    vectors = getattr(directions, of).cpu().double()[None]
    if inner is not None and torch.as_tensor(inner).ndim != 2:
        raise CasebackError(f"an inner product of shape {tuple(torch.as_tensor(inner).shape)}: expected (d, d)")
    return labelled(
        _cosines(vectors, inner)[0],
        ["site", "site_to"],
        {"site": directions.names, "site_to": directions.names},
        name="cosine",
        technique=place_agreement,
        of=of,
        by_chance=1.96 / vectors.shape[-1] ** 0.5,
    )


def _cosines(
    vectors: Float[Tensor, "place vector d"], inner: Tensor | np.ndarray | None
) -> Float[Tensor, "place vector other"]:
    """Of vectors at each place with each other, in an inner product."""
    width = vectors.shape[-1]
    metric: Any = torch.eye(width, dtype=torch.float64) if inner is None else torch.as_tensor(inner).cpu().double()
    if (
        metric.shape[-2:] != (width, width)
        or metric.ndim not in (2, 3)
        or metric.shape[:-2] not in ((), (len(vectors),))
    ):
        raise CasebackError(f"an inner product of shape {tuple(metric.shape)}: expected ({width}, {width})")
    products = vectors @ metric @ vectors.mT
    squares = products.diagonal(dim1=1, dim2=2)
    if not bool((squares > 0).all()):
        raise CasebackError("the inner product gives a direction no length: expected a positive definite one")
    return products / (squares[..., None] * squares[:, None]).sqrt()
