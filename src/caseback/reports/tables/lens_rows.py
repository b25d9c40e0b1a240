"""The rows of a lens: its layers, or, where heads or neurons were read, each of these by its name."""

from __future__ import annotations

from dataclasses import dataclass

import xarray as xr

from caseback.model.arguments import checked
from caseback.model.graph.names import Name

__all__ = ["BEFORE_ANY_LAYER", "Rows", "by_unit", "rows_of", "rows_with_answers"]

BEFORE_ANY_LAYER = "embed"
"""The row of the stream before any layer: what it reads is the token that stands there, and no answer."""
_UNITS = ("head", "neuron")


@dataclass(frozen=True)
class Rows:
    """What the rows are and what they are called.

    Attributes
    ----------
    labels
        One per row.
    axis
        What all rows together are, such as ``"after layer"``.
    each
        The same for the end of a title, such as ``"after each layer"``.
    before
        What stands before a label in a sentence.
    """

    labels: list[str]
    axis: str = "after layer"
    each: str = "after each layer"
    before: str = "after "


@checked
def by_unit(reading: xr.Dataset) -> xr.Dataset:
    """A reading of heads or neurons with one row per unit of each layer; other readings stay as they are.

    Parameters
    ----------
    reading
        What ``logit_lens`` or ``read_attention_lens`` gives.

    Returns
    -------
    xr.Dataset
        With a dimension ``component`` (L0H0, L0H1 ..., or L0N7 ...) first, in place of ``layer`` and ``head`` or
        ``neuron``, which stay as coordinates along it.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary import logit_lens
    >>> rows = by_unit(logit_lens(cb.load("meadow"), "the cat", site="head_out", units=[1, 3]))
    >>> rows["component"].values[:3].tolist(), rows["kl"].dims
    (['L0H1', 'L0H3', 'L1H1'], ('component', 'batch', 'pos'))
    """
    unit = next((dim for dim in _UNITS if dim in reading["entropy"].dims), None)
    if unit is None:
        return reading
    stacked = reading.stack(component=("layer", unit), create_index=False).transpose("component", ...)
    pairs = zip(stacked["layer"].values.tolist(), stacked[unit].values.tolist(), strict=True)
    return stacked.assign_coords(component=[str(Name(unit, layer, index)) for layer, index in pairs])


@checked
def rows_of(reading: xr.Dataset) -> Rows:
    """What the rows of a reading are, after ``by_unit``.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary import logit_lens
    >>> model = cb.load("meadow")
    >>> rows_of(logit_lens(model, "the cat")).labels
    ['embed', '0', '1', '2', '3']
    >>> rows_of(by_unit(logit_lens(model, "the cat", site="mlp_post", units=[7]))).each
    'of each neuron'
    """
    if "component" not in reading.dims:
        return Rows([str(layer) for layer in reading["layer"].values.tolist()])
    unit = next(dim for dim in _UNITS if dim in reading.coords)
    return Rows([str(name) for name in reading["component"].values.tolist()], unit, f"of each {unit}", "")


@checked
def rows_with_answers(reading: xr.Dataset) -> list[bool]:
    """Which rows of a reading, after ``by_unit``, may hold an answer: all of a lens's but the embedding's.

    A patchscope runs the model's layers on what it reads, so all of its rows do.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary import logit_lens
    >>> rows_with_answers(logit_lens(cb.load("meadow"), "the cat"))
    [False, True, True, True, True]
    """
    if "surprisal" in reading:
        return [True] * len(rows_of(reading).labels)
    return [label != BEFORE_ANY_LAYER for label in rows_of(reading).labels]
