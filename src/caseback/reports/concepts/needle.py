"""What a model finds in long prompts, as plain data: recall by length and depth, and the heads that bring the word.

costs = clean - without, past the largest of clean - without_random        over all held-out prompts
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError
from caseback.model.arguments import checked
from caseback.model.graph.names import head_name
from caseback.model.running.model import Model
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.tables.result_of import expect_result

__all__ = ["NEEDLE", "needle_document"]

MEASURES = ("score", "held_out", "distractor")


def _lengths(document: Mapping[str, Any]) -> None:
    shape = [len(document["depths"])] * len(document["lengths"])
    if [len(row) for row in document["recall"]] != shape:
        raise CasebackError("recall of other lengths or depths: pass what needle_document returned")
    for row in document["heads"]:
        if [len(line) for line in row["by_place"]] != shape:
            raise CasebackError(f"{row['head']} of other lengths or depths: pass what needle_document returned")


NEEDLE = DocumentKind(
    "caseback.needle",
    1,
    "a document of a needle test",
    "needle_document",
    sections=("counts", "lengths", "depths", "recall", "heads", "without", "provenance"),
    lengths=_lengths,
)


@checked
def needle_document(model: Model, table: xr.Dataset) -> dict[str, Any]:
    """What ``needle_test`` measured as plain data.

    Parameters
    ----------
    model
        The model.
    table
        What ``caseback.behaviors.needle_test`` gave for it.

    Returns
    -------
    dict
        ``recall``, a row a length and a column a depth; ``heads`` past the threshold, the highest ``score`` first, with
        ``held_out``, ``distractor`` and ``by_place``, rows and columns as ``recall`` (None where nothing is recalled);
        ``without`` the ``clean`` recall of the held-out prompts, that without these heads, the mean and the least
        without as many others (``random``, ``worst``), by length and in all, and whether the heads ``matter``.

    Raises
    ------
    CasebackError
        For another dataset, or one of another model.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> table = cb.behaviors.needle_test(model, lengths=[60], depths=[0.0, 1.0], draws=2)
    >>> document = needle_document(model, table)
    >>> document["recall"], document["heads"][0]["score"] > 0.1
    ([[1.0, 1.0]], True)
    """
    expect_result(model, table, ("recall", "score", "held_out", "by_place", "without"), "needle_test")
    past = np.argwhere(table["score"].values >= float(table.attrs["threshold"])).tolist()
    past.sort(key=lambda at: -float(table["score"].values[tuple(at)]))
    heads = [
        {
            "head": head_name(layer, head),
            **{name: _number(table[name].values[layer, head]) for name in MEASURES},
            "by_place": [[_number(x) for x in row] for row in table["by_place"].values[layer, head]],
        }
        for layer, head in past
    ]
    clean, without = table["clean"].values, table["without"].values
    random = table["without_random"].transpose("draw", "length").values
    by_length = {"clean": clean, "without": without, "random": random.mean(0), "worst": random.min(0)}
    total = {"clean": clean.mean(), "without": without.mean(), "random": random.mean(), "worst": random.mean(1).min()}
    return NEEDLE.document(
        model_facts(model),
        counts={
            **{name: int(table.attrs[name]) for name in ("recalled", "prompts")},
            **{"heads": len(heads), "of": table["score"].size, "threshold": float(table.attrs["threshold"])},
            "half": int((table["score"].values > 0.5).sum()),
        },
        lengths=table["length"].values.tolist(),
        depths=table["depth"].values.tolist(),
        recall=table["recall"].values.tolist(),
        heads=heads,
        without={
            "by_length": {name: values.tolist() for name, values in by_length.items()},
            **{name: float(value) for name, value in total.items()},
            "matter": bool(heads) and bool(total["without"] < total["worst"]),
        },
        provenance={
            **model.provenance(),
            **{name: str(table.attrs[name]) for name in ("technique", "entry", "citation")},
        },
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
