"""What a page of units shows, as plain data: per unit its numbers, strongest examples and some from its whole range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from caseback.decode.vocabulary.activating import Activating, Example
from caseback.errors import OutOfRange
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts

__all__ = ["UNITS", "unit_document"]

UNITS = DocumentKind(
    "caseback.units",
    2,
    "a document of units",
    "unit_document",
    sections=("site", "tokens", "rows", "threshold", "units", "provenance"),
)

QUANTILES = (0.5, 0.9, 0.99, 0.999)


@checked
def unit_document(
    model: Model,
    activating: Activating,
    units: Sequence[int],
    *,
    top: int = 10,
    bins: int = 4,
    each: int = 2,
    before: int = 12,
    after: int = 6,
) -> dict[str, Any]:
    """Make the document of some units.

    Parameters
    ----------
    model
        The model.
    activating
        What ``activating_inputs`` gives.
    units
        Indices of units that were collected.
    top
        How many of the strongest examples are shown per unit.
    bins, each
        How many bins of equal width cover a unit's range, and how many examples are shown per bin; see
        ``Activating.ranges``.
    before, after
        How many tokens are shown on either side of an example.

    Returns
    -------
    dict
        The document, plain JSON data: ``model``, ``site``, ``tokens``, ``rows``, ``threshold``; under ``units``, per
        unit, its ``mean``, ``std``, ``frequency``, ``quantiles``, ``examples`` and ``ranges``; and ``provenance``.

    Raises
    ------
    OutOfRange
        If no unit is given, or one that was not collected.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary.activating import activating_inputs
    >>> model = cb.load("meadow")
    >>> activating = activating_inputs(model, ["Mary went to the store."], "mlp_post", layer=0, units=[3], top=2)
    >>> document = unit_document(model, activating, [3])
    >>> document["site"], len(document["units"][0]["examples"])
    ('mlp_post.0', 2)
    """
    if not units:
        raise OutOfRange("no unit to show: expected at least one")
    at = {unit: activating.number(unit) for unit in units}
    mean, std, frequency = (x.tolist() for x in (activating.mean(), activating.std(), activating.frequency()))
    quantiles = activating.quantiles(QUANTILES)
    entries = []
    for unit, i in at.items():
        ranges = activating.ranges(model, unit, bins=bins, each=each, before=before, after=after)
        entries.append(
            {
                "unit": unit,
                "mean": mean[i],
                "std": std[i],
                "frequency": frequency[i],
                "quantiles": {
                    str(q): x if math.isfinite(x) else None
                    for q, x in zip(QUANTILES, quantiles[i].tolist(), strict=True)
                },
                "examples": [
                    _example(e) for e in activating.examples(model, unit, top=top, before=before, after=after)
                ],
                "ranges": [
                    {"low": low, "high": high, "examples": [_example(e) for e in examples]}
                    for low, high, examples in ranges
                ],
            }
        )
    return UNITS.document(
        model_facts(model, "name", "n_layers", "n_heads", "d_model", "dtype"),
        site=str(activating.units.site),
        tokens=activating.n_tokens,
        rows=activating.rows.n_rows,
        threshold=activating.provenance["threshold"],
        units=entries,
        provenance=model.provenance(),
    )


def _example(example: Example) -> dict[str, Any]:
    return {
        "row": example.row,
        "pos": example.pos,
        "value": example.value,
        "at": example.pos - example.first,
        "tokens": example.text,
        "values": example.values,
    }
