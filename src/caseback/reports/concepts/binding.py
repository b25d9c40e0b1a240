"""What binds things to their owners, as plain data: whose thing is named when states are exchanged, moved or shifted.

ids = shares of the other's thing for entities and for attributes, less two standard errors, past those of random
      directions, and of the own thing for both, past half;    asked of exchanged states, and of added differences
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.tables.result_of import expect_result

__all__ = ["BINDING", "binding_document"]

NAMES = {"own": 1, "other": 2, "third": 3}
ERRORS = 2


def _lengths(document: Mapping[str, Any]) -> None:
    for row in document["variants"]:
        if row["part"] not in document["parts"]:
            raise CasebackError(f"a row of {row['part']!r}: pass what binding_document returned")


BINDING = DocumentKind(
    "caseback.binding",
    1,
    "a document of binding",
    "binding_document",
    sections=("counts", "example", "parts", "variants", "ids", "provenance"),
    lengths=_lengths,
)


@checked
def binding_document(model: Model, table: xr.Dataset) -> dict[str, Any]:
    """What ``binding_ids`` measured as plain data.

    Parameters
    ----------
    model
        The model.
    table
        What ``caseback.behaviors.binding_ids`` gave for it.

    Returns
    -------
    dict
        ``variants`` has each intervention on each part with the shares of texts in which the ``own``, the ``other`` and
        a ``third`` thing is named, the ``error`` of the second, and the mean ``margin`` of the first over the second;
        ``ids`` says of ``exchanged`` states and of ``added`` differences whether they act as an ID at either end does.

    Raises
    ------
    CasebackError
        For another dataset, or one of another model.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> document = binding_document(model, cb.behaviors.binding_ids(model, count=16))
    >>> document["ids"], len(document["variants"])
    ({'exchanged': False, 'added': False}, 12)
    """
    expect_result(model, table, ("names", "margin", "clean"), "binding_ids")
    rows = [
        _row(str(variant), str(part), table.sel(variant=variant, part=part))
        for variant in table["variant"].values
        for part in table["part"].values
    ]
    by = {(row["variant"], row["part"]): row for row in rows}
    return BINDING.document(
        model_facts(model),
        counts={
            **{name: int(table.attrs[name]) for name in ("entities", "behind", "known", "asked")},
            "margin": float(table["clean"].mean()),
        },
        example=str(table["text"].values[0]),
        parts=[str(part) for part in table["part"].values],
        variants=rows,
        ids={
            name: _by_id(by, variant)
            for name, variant in (("exchanged", "exchanged states"), ("added", "added differences"))
        },
        provenance={
            **model.provenance(),
            **{name: str(table.attrs[name]) for name in ("technique", "entry", "citation")},
        },
    )


def _row(variant: str, part: str, of: xr.Dataset) -> dict[str, Any]:
    names = of["names"].values
    other = names == NAMES["other"]
    return {
        **{"variant": variant, "part": part},
        **{name: float((names == number).mean()) for name, number in NAMES.items()},
        **{"error": float(other.std(ddof=1) / np.sqrt(len(other))), "margin": float(of["margin"].mean())},
    }


def _by_id(by: Mapping[tuple[str, str], Mapping[str, Any]], variant: str) -> bool:
    """Whether either end alone exchanges things, past random directions there, and both together bring them back."""
    ends = [
        by[variant, part]["other"] - ERRORS * by[variant, part]["error"] > by["random directions", part]["other"]
        for part in ("entities", "attributes")
    ]
    return all(ends) and by[variant, "both"]["own"] > 1 / 2
