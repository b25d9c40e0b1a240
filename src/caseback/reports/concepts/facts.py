"""How facts are recalled, as plain data: three curves over layers, each beside its control.

    excess(l) = mean over facts of  fall(l) - mean over draws of the random positions' fall(l)

A source is what the answer hangs on where its largest excess, less three standard errors (it is the best of many
layers), is past that of any one random draw over the mean of all, at any layer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError
from caseback.jobs.json_text import finite_or_none, parse_json
from caseback.jobs.text_file import read_text
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.tables.result_of import expect_result

__all__ = ["FACTS", "facts_document", "relation_of"]


def _lengths(document: Mapping[str, Any]) -> None:
    n = len(document["layers"])
    curves = [row[name] for row in document["routing"] for name in ("fall", "low", "high")]
    curves += [row[name] for row in document["enrichment"] for name in ("rate", "other")]
    curves += [document["extraction"][name] for name in ("rate", "other")]
    if odd := [len(curve) for curve in curves if len(curve) != n]:
        raise CasebackError(f"a curve of {odd[0]} values over {n} layers: pass what facts_document returned")


FACTS = DocumentKind(
    "caseback.facts",
    1,
    "a document of facts",
    "facts_document",
    sections=("relation", "facts", "layers", "how", "routing", "enrichment", "extraction", "provenance"),
    lengths=_lengths,
)

ERRORS = 3


@checked
def facts_document(model: Model, flow: xr.Dataset, relation: str = "") -> dict[str, Any]:
    """What ``fact_flow`` measured as plain data.

    Parameters
    ----------
    model
        The model.
    flow
        What ``caseback.behaviors.fact_flow`` gave for it.
    relation
        What the facts are called together.

    Returns
    -------
    dict
        ``facts`` has each with ``known``, and the rank of its answer. ``routing`` has each source with its mean
        ``fall`` by layer and the ends of the random draws' means (``low``, ``high``); then the ``layer`` of the
        largest ``excess`` over these, its standard ``error``, the ``band`` (by how much a draw exceeds the mean of all
        at most) and whether it is ``above``.
        ``enrichment`` and ``extraction`` have mean rates by layer, and those of ``other`` facts' words. What does not
        exist is None.

    Raises
    ------
    CasebackError
        For another dataset, or one of another model.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> flow = cb.behaviors.fact_flow(model, cb.edit.relation_facts("capital", count=6), draws=2)
    >>> document = facts_document(model, flow, "capital")
    >>> document["routing"][0]["source"], len(document["extraction"]["rate"])
    ('subject', 4)
    """
    expected = ("routing", "routing_control", "enrichment", "enrichment_control", "extraction", "extraction_control")
    expect_result(model, flow, expected, "fact_flow")
    names = ("subject", "prompt", "answer", "says", "rank", "log_prob", "pieces", "words")
    of_facts = zip(*(flow[name].values.tolist() for name in names), strict=True)
    facts = [finite_or_none(dict(zip(names, row, strict=True))) for row in of_facts]
    enriched = [
        {
            "without": str(name),
            "rate": _mean(flow["enrichment"].sel(variant=name)),
            "other": _mean(flow["enrichment_control"].sel(variant=name)),
        }
        for name in flow["variant"].values
    ]
    return FACTS.document(
        model_facts(model),
        relation=relation,
        facts=[fact | {"known": fact["rank"] == 1} for fact in facts],
        layers=flow["layer"].values.tolist(),
        how={name: int(flow.attrs[name]) for name in ("window", "k", "draws", "seed")}
        | {"attributes": str(flow.attrs["attributes"])},
        routing=[_source(flow, str(name)) for name in flow["key"].values],
        enrichment=enriched,
        extraction={"rate": _mean(flow["extraction"]), "other": _mean(flow["extraction_control"])},
        provenance={
            **model.provenance(),
            **{name: str(flow.attrs[name]) for name in ("technique", "entry", "citation")},
        },
    )


@checked
def relation_of(name: str) -> str | dict[str, Any]:
    """A relation as ``relation_facts`` takes it: its name, or a file's data.

    Parameters
    ----------
    name
        A relation of ``caseback.tasks.facts.RELATIONS``, or a JSON file as the relations dataset has it.

    Raises
    ------
    CasebackError
        For a file that holds another form of JSON.

    Examples
    --------
    >>> relation_of("capital")
    'capital'
    """
    if not os.path.isfile(name):
        return name
    try:
        data = parse_json(read_text(name))
    except ValueError as error:
        raise CasebackError(f"{name} is not JSON ({error}): expected samples and prompt_templates") from None
    if not isinstance(data, dict):
        raise CasebackError(f"{name} holds a {type(data).__name__}: expected samples and prompt_templates")
    return data


def _source(flow: xr.Dataset, name: str) -> dict[str, Any]:
    own = flow["routing"].sel(key=name).transpose("layer", "batch").values
    random = flow["routing_control"].sel(key=name).transpose("layer", "draw", "batch").values
    some = ~np.isnan(own).any(0)
    own, random = own[:, some], random[..., some]
    none = [None] * len(own)
    row: dict[str, Any] = {"source": name, "facts": own.shape[1], "fall": none, "low": none, "high": none}
    row |= dict.fromkeys(("layer", "excess", "error", "band", "above"))
    if not own.shape[1]:
        return row
    row["fall"] = own.mean(1).tolist()
    compared = ~np.isnan(random).any((0, 1)) if random.size else np.zeros(0, bool)
    if compared.sum() < 2:
        return finite_or_none(row)
    means = random[..., compared].mean(-1)
    excess = own[:, compared] - random[..., compared].mean(1)
    top = int(excess.mean(1).argmax())
    error = float(excess[top].std(ddof=1) / np.sqrt(compared.sum()))
    band = float((means - means.mean(1, keepdims=True)).max())
    row |= {"low": means.min(1).tolist(), "high": means.max(1).tolist(), "layer": int(flow["layer"].values[top])}
    row |= {"excess": float(excess[top].mean()), "error": error, "band": band}
    return finite_or_none(row | {"above": bool(row["excess"] - ERRORS * error > band)})


def _mean(values: xr.DataArray) -> list[float | None]:
    """Means over the facts, by layer."""
    return finite_or_none(values.mean("batch").values.tolist())
