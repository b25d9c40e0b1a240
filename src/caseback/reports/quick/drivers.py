"""What drives one unit at one place, as plain data: writers of what it reads, or pairs behind a head's look.

    feature, neuron    activation + threshold = sum of what each writer brought, by each way     feature_attribution
    head               score(query, key) = sum over pairs of writers, one at each                score_attribution

All terms are exact on the prompt, with attention patterns and norms' denominators held; others than listed are summed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.errors import ArgumentError, CasebackError, OutOfRange
from caseback.localize.circuits import feature_attribution, score_attribution
from caseback.localize.circuits.attribution_graphs.stream_writes import standing_together
from caseback.model.arguments import checked
from caseback.model.graph.names import parse_name
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.quick.one_prompt import one_prompt, tokens_of

__all__ = ["UNIT_DRIVERS", "unit_drivers"]

KINDS = ("head", "neuron", "feature")


@checked
def unit_drivers(
    model: Model,
    prompt: PromptsLike,
    unit: str,
    dictionaries: Iterable[Dictionary] = (),
    *,
    pos: int = -1,
    key: int | None = None,
    top: int = 40,
) -> dict[str, Any]:
    """What drives a head's look, a neuron or a feature at one position of a prompt.

    Parameters
    ----------
    model
        The model.
    prompt
        One prompt: text, a list of token ids, or ``Tokens``.
    unit
        Such as ``"L2H3"``, ``"L3N17"``, ``"L3F1042"`` or ``"L3F7:resid_post"``.
    dictionaries
        Those whose features are named as writers, a feature's own first; none by default. Of several that write at one
        place the first is taken, and none that is of other places than the stream, attention's or MLPs' outputs.
    pos
        Where; a head's query. Negative from the end.
    key
        What a head looks at; by default the position with the most of its attention.
    top
        How many rows.

    Returns
    -------
    dict
        The document: ``unit``, ``pos`` and ``tokens``; ``of``, the ``kind`` of the unit and, of a head, its ``key``
        and ``pattern``, else None; ``value``, the activation (of a neuron what its activation function takes, of a head
        the score); ``rows``, the largest first, each with ``writers`` (one, or of a head those at query and key; of
        biases ``name`` and ``pos`` are None), ``through``, the head that brought it, or ``""``, and ``weight``;
        ``rest``, the sum of all that are not listed; ``gap``, by how much all miss the value;
        and ``provenance``.

    Raises
    ------
    ArgumentError, OutOfRange, SiteAbsent
        As ``feature_attribution`` and ``score_attribution``; for a unit of another kind, and a key of one that is no
        head.

    Examples
    --------
    >>> import caseback as cb
    >>> document = unit_drivers(cb.load("meadow"), "Mary and John went to the", "L3N17")
    >>> total = sum(row["weight"] for row in document["rows"]) + document["rest"]
    >>> abs(total - document["value"]) < 1e-3
    True
    """
    tokens = one_prompt(model, prompt, "unit_drivers")
    if top < 1:
        raise OutOfRange(f"top={top}: expected 1 or more rows")
    kind = parse_name(unit).kind
    if kind not in KINDS:
        raise ArgumentError(
            f"{unit!r} is a {kind}: expected a head, a neuron or a feature, such as L2H3, L3N17 or L3F7"
        )
    if key is not None and kind != "head":
        raise ArgumentError(f"key={key}: only a head has one, and {unit} is a {kind}")
    listed = standing_together(model, dictionaries)
    if kind == "head":
        pairs = score_attribution(model, tokens, unit, listed, query=pos, key=key)
        attrs, rows, rest = pairs.attrs, *_pairs(pairs, top)
    else:
        inputs = feature_attribution(model, tokens, unit, listed, pos=pos, top=top)
        attrs, rows, rest = inputs.attrs, _inputs(inputs), inputs.attrs["rest"]
    return UNIT_DRIVERS.document(
        model_facts(model),
        unit=unit,
        of={"kind": kind, "key": attrs.get("key"), "pattern": attrs.get("pattern")},
        pos=int(attrs["query"] if kind == "head" else attrs["pos"]),
        tokens=tokens_of(tokens),
        value=float(attrs["value"]),
        rows=rows,
        rest=float(rest),
        gap=float(attrs["gap"]),
        provenance={**model.provenance(), **{name: str(attrs[name]) for name in ("technique", "entry", "citation")}},
    )


def _inputs(inputs: xr.Dataset) -> list[dict[str, Any]]:
    columns = (inputs[name].values.tolist() for name in ("writer", "through", "weight"))
    return [
        {"writers": [_writer(writer)], "through": through, "weight": weight}
        for writer, through, weight in zip(*columns, strict=True)
    ]


def _pairs(pairs: xr.DataArray, top: int) -> tuple[list[dict[str, Any]], float]:
    """The largest pairs, and the sum of the others."""
    weights = pairs.values
    order = np.argsort(-np.abs(weights), axis=None, kind="stable")
    shown = [divmod(i, weights.shape[1]) for i in order[:top].tolist()]
    query, key = (pairs[f"{side}_writer"].values.tolist() for side in ("query", "key"))
    rows = [
        {"writers": [_writer(query[i]), _writer(key[j])], "through": "", "weight": float(weights[i, j])}
        for i, j in shown
        if weights[i, j] != 0
    ]
    return rows, float(weights.ravel()[order[top:]].sum())


def _writer(text: str) -> dict[str, Any]:
    name, at, pos = text.partition("@")
    return {"name": None if name == "bias" else name, "pos": int(pos) if at else None}


def _lengths(document: Mapping[str, Any]) -> None:
    n, of_head = len(document["tokens"]), document["of"]["kind"] == "head"
    if any(len(row["writers"]) != 1 + of_head for row in document["rows"]):
        raise CasebackError(f"drivers of a {document['of']['kind']}: rows of other numbers of writers")
    places = [document["pos"], *(w["pos"] for row in document["rows"] for w in row["writers"] if w["pos"] is not None)]
    if not all(0 <= pos < n for pos in places):
        raise CasebackError(f"drivers at positions that a prompt of {n} tokens does not have")


UNIT_DRIVERS = DocumentKind(
    "caseback.unit_drivers",
    1,
    "a document of a unit's drivers",
    "unit_drivers",
    sections=("unit", "of", "pos", "tokens", "value", "rows", "rest", "gap", "provenance"),
    lengths=_lengths,
)
