"""A table's statistics as one labeled data set: every array with the coordinates of the dimensions that it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr
from torch import Tensor

from caseback.model.results import labelled
from caseback.model.running.model import Model

Arrays = Mapping[str, tuple[Tensor, Sequence[str]]]
"""By name, values and their dimensions."""


def dataset(model: Model, arrays: Arrays, coords: Mapping[str, Sequence[Any]], **attrs: Any) -> xr.Dataset:
    """Label arrays.

    Parameters
    ----------
    model
        The model.
    arrays
        By name, values and their dimensions.
    coords
        Of each dimension that has one.
    **attrs
        What else describes them.
    """
    variables = {}
    for name, (values, dims) in arrays.items():
        own = {dim: list(coords[dim]) for dim in dims if dim in coords}
        variables[name] = labelled(values, dims, own, name=name, model=model, **attrs)
    return xr.Dataset(variables)


def mean_and_variance(sums: Tensor, squares: Tensor, n: Tensor | int) -> tuple[Tensor, Tensor]:
    """From a sum and a sum of squares; NaN where nothing was counted.

    Examples
    --------
    >>> import torch
    >>> [x.item() for x in mean_and_variance(torch.tensor(4.0), torch.tensor(10.0), 2)]
    [2.0, 1.0]
    """
    mean = sums / n
    return mean, (squares / n - mean.square()).clamp_min(0)
