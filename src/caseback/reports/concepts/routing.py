"""Attention to MLP routing as plain data: pairs of heads and neurons beside their controls, and a map of all heads."""

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

__all__ = ["ROUTING", "routing_document"]


def _lengths(document: Mapping[str, Any]) -> None:
    n = len(document["layers"])
    for row in document["heads"]:
        if len(row["routed"]) != n:
            raise CasebackError(
                f"a head with {len(row['routed'])} shares over {n} layers: pass what routing_document returned"
            )


ROUTING = DocumentKind(
    "caseback.routing",
    1,
    "a document of routing",
    "routing_document",
    sections=("counts", "how", "bands", "layers", "pairs", "heads", "provenance"),
    lengths=_lengths,
)


@checked
def routing_document(model: Model, routed: xr.Dataset) -> dict[str, Any]:
    """What ``neuron_routing`` measured as plain data.

    Parameters
    ----------
    model
        The model.
    routed
        What ``caseback.behaviors.neuron_routing`` gave for it.

    Returns
    -------
    dict
        ``pairs`` has each ``head`` and ``neuron`` with the shares ``lost`` and ``low``, the tokens where it ``fires``,
        ``change``, ``r``, the largest share that is lost without another ``other_head`` and of another neuron
        (``matched``), whether it is ``above`` both ``bands``, and the ``context`` with what the head ``attended``;
        ``heads`` the share of each layer's neurons that lose half their firing without one (``routed``), ``layers``
        each MLP with how many neurons are looked at. None stands where there is no number.

    Raises
    ------
    CasebackError
        For another dataset, or one of another model.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.tasks.passages import PASSAGES
    >>> model = cb.load("meadow")
    >>> document = routing_document(model, cb.behaviors.neuron_routing(model, PASSAGES, n_tokens=1000, top=5))
    >>> document["pairs"][0]["head"], len(document["heads"])
    ('L0H4', 20)
    """
    names = ("lost", "low", "fires", "change", "r", "lost_heads", "lost_matched", "above", "routed", "sender", "unit")
    expect_result(model, routed, (*names, "context", "attended", "looked_at"), "neuron_routing")
    attrs = routed.attrs
    pairs = [
        {
            "head": str(one["sender"].item()),
            "neuron": str(one["unit"].item()),
            **{name: _number(one[name].item()) for name in ("lost", "low", "change", "r")},
            "fires": int(one["fires"].item()),
            "other_head": _largest(one["lost_heads"].values),
            "matched": _largest(one["lost_matched"].values),
            "above": bool(one["above"].item()),
            **{name: str(one[name].item()) for name in ("context", "attended")},
        }
        for one in (routed.isel(rank=i) for i in range(routed.sizes["rank"]))
    ]
    return ROUTING.document(
        model_facts(model),
        counts={
            **{name: int(attrs[name]) for name in ("tokens_chosen", "tokens_judged", "least")},
            **{"pairs": len(pairs), "above": sum(pair["above"] for pair in pairs)},
        },
        how={name: attrs[name] for name in ("ablation", "norm", "threshold")},
        bands={name: _number(attrs.get(f"band_{name}", np.nan)) for name in ("heads", "matched")},
        layers=[
            {"layer": int(layer), "neurons": int(n)}
            for layer, n in zip(routed["layer"].values, routed["looked_at"].values, strict=True)
        ],
        pairs=pairs,
        heads=[
            {"head": str(head), "routed": [_number(share) for share in row]}
            for head, row in zip(routed["writer"].values, routed["routed"].values, strict=True)
        ],
        provenance={**model.provenance(), **{name: str(attrs[name]) for name in ("technique", "entry", "citation")}},
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _largest(values: np.ndarray) -> float | None:
    some = values[~np.isnan(values)]
    return float(some.max()) if len(some) else None
