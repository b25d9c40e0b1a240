"""What the prompt claims against what is known, as plain data: the dial of each kind of head beside random heads.

    margin = logit(claimed) - logit(known),    fall = margin at factor 1 - margin at factor 0, else the negative

A kind of head moves the answer where its fall, less two standard errors, is past the 95 % quantile of random heads'.
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

__all__ = ["CONTEXT_MEMORY", "context_memory_document"]

_SHARES = ("claimed", "known", "margin", "agreeing", "bare")
_RANDOM = ("mean", "low", "high", "known", "margin")


def _lengths(document: Mapping[str, Any]) -> None:
    n = len(document["factors"])
    for dial in document["dials"]:
        curves = [dial[name] for name in _SHARES]
        curves += [dial["random"][name] for name in _RANDOM] if dial["random"] else []
        if odd := [len(curve) for curve in curves if len(curve) != n]:
            raise CasebackError(
                f"a curve of {odd[0]} values over {n} factors: pass what context_memory_document returned"
            )


CONTEXT_MEMORY = DocumentKind(
    "caseback.context_memory",
    1,
    "a document of context and memory",
    "context_memory_document",
    sections=("relation", "counts", "example", "factors", "how", "dials", "heads", "provenance"),
    lengths=_lengths,
)

ERRORS = 2
SIGNS = {"in-context": 1, "suppressing": -1, "memory": -1}


@checked
def context_memory_document(model: Model, dial: xr.Dataset, relation: str = "") -> dict[str, Any]:
    """What ``context_memory`` measured as plain data.

    Parameters
    ----------
    model
        The model.
    dial
        What ``caseback.behaviors.context_memory`` gave for it.
    relation
        What the facts are called together.

    Returns
    -------
    dict
        ``dials`` has each kind of head with the shares of ``claimed`` and ``known`` answers by factor, the mean
        ``margin``, how many prompts that agree with memory (``agreeing``) and prompts without a claim (``bare``) are
        still answered rightly, and the same of ``random`` heads, None where none was drawn; then the ``fall``, its
        ``error``, the ``band`` and whether it is ``above``. ``heads`` has each head with its direct shares and what
        the margin loses without it (``knockout``), beside the ``band`` of all other heads.

    Raises
    ------
    CasebackError
        For another dataset, or one of another model.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> facts = cb.edit.relation_facts("capital", count=16)
    >>> document = context_memory_document(model, cb.behaviors.context_memory(model, facts, draws=4), "capital")
    >>> [row["kind"] for row in document["dials"]], document["counts"]["facts"]
    (['in-context', 'suppressing', 'memory'], 16)
    """
    expect_result(model, dial, ("says", "margin", "direct", "knockout", "agreeing"), "context_memory")
    judged = dial.isel(batch=np.flatnonzero(dial["judged"].values))
    names = ("prompt", "context", "claimed", "answer")
    attrs = dial.attrs
    return CONTEXT_MEMORY.document(
        model_facts(model),
        relation=relation,
        counts={"facts": int(attrs["facts"]), "known": dial.sizes["batch"], "judged": judged.sizes["batch"]},
        example={name: str(judged[name].values[0]) for name in names},
        factors=dial["dose"].values.tolist(),
        how={name: int(attrs[name]) for name in ("top", "draws", "seed")} | {"wording": str(attrs["wording"])},
        dials=[_dial(judged, kind) for kind in dial["group"].values.tolist()],
        heads=_heads(judged),
        provenance={**model.provenance(), **{name: str(attrs[name]) for name in ("technique", "entry", "citation")}},
    )


def _dial(dial: xr.Dataset, kind: str) -> dict[str, Any]:
    own = dial.sel(group=kind)
    says, margin = (own[name].transpose("dose", "batch") for name in ("says", "margin"))
    random_says, random_margin = (
        own[f"{name}_control"].transpose("draw", "dose", "batch").values for name in ("says", "margin")
    )
    fall = SIGNS[kind] * (margin.sel(dose=1) - margin.sel(dose=0)).values
    row: dict[str, Any] = {
        "kind": kind,
        "claimed": (says == 1).mean("batch").values.tolist(),
        "known": (says == 2).mean("batch").values.tolist(),
        "margin": margin.mean("batch").values.tolist(),
        **{name: own[name].mean("batch").values.tolist() for name in ("agreeing", "bare")},
        "random": None,
        "fall": float(fall.mean()),
        "error": float(fall.std(ddof=1) / np.sqrt(len(fall))) if len(fall) > 1 else None,
        "band": None,
        "above": None,
    }
    if not len(random_says):
        return row
    shares = (random_says == 1).mean(-1)
    one, none = (dial["dose"].values.tolist().index(factor) for factor in (1.0, 0.0))
    means = random_margin.mean(-1)
    row["random"] = {
        **{name: getattr(shares, of)(0).tolist() for name, of in (("mean", "mean"), ("low", "min"), ("high", "max"))},
        "known": (random_says == 2).mean((0, -1)).tolist(),
        "margin": means.mean(0).tolist(),
    }
    row["band"] = float(np.quantile(SIGNS[kind] * (means[:, one] - means[:, none]), 0.95))
    if row["error"] is not None:
        row["above"] = bool(row["fall"] - ERRORS * row["error"] > row["band"])
    return row


def _heads(dial: xr.Dataset) -> list[dict[str, Any]]:
    kinds = dial["kind"].values
    shares = {name: dial[name].mean("batch").values for name in ("direct", "direct_agreeing", "knockout")}
    each = dial["knockout"].transpose("layer", "head", "batch").values
    others = shares["knockout"][(kinds == "") & ~np.isnan(shares["knockout"])]
    rows = []
    for kind, sign in SIGNS.items():
        band = float(np.quantile(sign * others, 0.95)) if len(others) else None
        for at in np.argwhere(kinds == kind).tolist():
            values = {name: float(value[*at]) for name, value in shares.items()}
            error = float(each[*at].std(ddof=1) / np.sqrt(each.shape[-1])) if each.shape[-1] > 1 else None
            moves = None
            if band is not None and error is not None:
                moves = bool(sign * values["knockout"] - ERRORS * error > max(band, 0.0))
            rows.append({"name": head_name(*at), "kind": kind, **values, "error": error, "band": band, "above": moves})
    return sorted(rows, key=lambda row: (list(SIGNS).index(row["kind"]), -SIGNS[row["kind"]] * row["direct"]))
