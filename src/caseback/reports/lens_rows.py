"""The rows of a lens: its layers, or where heads or neurons were read, each of these by its name."""

from __future__ import annotations

from dataclasses import dataclass

import xarray as xr

__all__ = ["Rows", "by_unit", "rows_of"]

_LETTERS = {"head": "H", "neuron": "N"}


@dataclass(frozen=True)
class Rows:
    """What the rows are and what they are called.

    Attributes
    ----------
    labels
        Of each row.
    axis
        What they are together, such as ``"after layer"``.
    each
        How the end of a title says it.
    before
        What stands before a label in a sentence.
    """

    labels: list[str]
    axis: str = "after layer"
    each: str = "after each layer"
    before: str = "after "


def by_unit(found: xr.Dataset) -> xr.Dataset:
    """A reading of heads or neurons with one row for each of them in each layer; other readings stay as they are.

    Parameters
    ----------
    found
        What ``logit_lens`` or ``read_attention_lens`` gave.

    Returns
    -------
    xr.Dataset
        With a dimension ``component`` (L0H0, L0H1 ..., or L0N7 ...) first, in place of ``layer`` and ``head`` or
        ``neuron``, which stay beside it as coordinates.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary import logit_lens
    >>> found = logit_lens(cb.load("meadow"), "the cat", site="head_out", units=[1, 3])
    >>> by_unit(found)["component"].values[:3].tolist(), by_unit(found)["kl"].dims
    (['L0H1', 'L0H3', 'L1H1'], ('component', 'batch', 'pos'))
    """
    unit = next((dim for dim in _LETTERS if dim in found["entropy"].dims), None)
    if unit is None:
        return found
    made = found.stack(component=("layer", unit), create_index=False).transpose("component", ...)
    pairs = zip(made["layer"].values.tolist(), made[unit].values.tolist(), strict=True)
    return made.assign_coords(component=[f"L{layer}{_LETTERS[unit]}{index}" for layer, index in pairs])


def rows_of(found: xr.Dataset) -> Rows:
    """What the rows of ``by_unit`` of a reading are.

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
    if "component" not in found.dims:
        return Rows([str(layer) for layer in found["layer"].values.tolist()])
    unit = next(dim for dim in _LETTERS if dim in found.coords)
    return Rows([str(name) for name in found["component"].values.tolist()], unit, f"of each {unit}", "")
