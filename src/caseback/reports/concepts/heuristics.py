"""A bag of heuristics as plain data: rules with matched neurons, and the sums that are lost without these.

costs = right as it is - right without its neurons,   past the most that any set of as many others costs
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.tables.result_of import expect_result

__all__ = ["HEURISTICS", "heuristics_document"]

SHOWN = 8
"""Neurons that are named for a rule."""
VARIANTS = {"clean": "as it is", "without": "without its neurons", "random": "without others"}

HEURISTICS = DocumentKind(
    "caseback.heuristics",
    1,
    "a document of heuristics",
    "heuristics_document",
    sections=("counts", "asked", "rules", "judged", "provenance"),
)


@checked
def heuristics_document(model: Model, table: xr.Dataset) -> dict[str, Any]:
    """What ``arithmetic_heuristics`` measured as plain data.

    Parameters
    ----------
    model
        The model.
    table
        What ``caseback.behaviors.arithmetic_heuristics`` gave for it.

    Returns
    -------
    dict
        ``rules`` with matched neurons, those with the most first, with their number, mean ``score`` and ``held_out``,
        and the ``neurons`` that score highest; ``judged``, the rules whose neurons were silenced: the share of right
        answers ``satisfied``, where the rule holds, and in ``others``, where not, each ``clean``, ``without`` these
        neurons and without as many others (``random``), the least of those in ``worst``, and whether they ``matter``.

    Raises
    ------
    CasebackError
        For another dataset, or one of another model.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> table = cb.behaviors.arithmetic_heuristics(model, largest=8, layers=[3], top=20, most=2, draws=2)
    >>> document = heuristics_document(model, table)
    >>> document["counts"]["answered"], len(document["judged"]) <= 2
    (64, True)
    """
    expect_result(model, table, ("score", "held_out", "matched", "satisfied", "others"), "arithmetic_heuristics")
    matched = table["matched"].transpose("heuristic", "component").values.astype(bool)
    score, held = (table[name].transpose("heuristic", "component").values for name in ("score", "held_out"))
    names, neurons = table["heuristic"].values.tolist(), table["component"].values
    order = [int(h) for h in np.argsort(-matched.sum(1), kind="stable") if matched[h].any()]
    rules = [
        {
            "rule": names[h],
            "matched": int(matched[h].sum()),
            "score": float(score[h][matched[h]].mean()),
            "held_out": float(held[h][matched[h]].mean()),
            "neurons": neurons[
                np.argsort(-np.where(matched[h], score[h], -np.inf))[: min(SHOWN, matched[h].sum())]
            ].tolist(),
        }
        for h in order
    ]
    right = {
        name: table[name].sel(measure="right").transpose("variant", "heuristic") for name in ("satisfied", "others")
    }
    random = table["random"].sel(measure="right").transpose("draw", "heuristic").values
    judged = []
    for h in order:
        if np.isnan(right["satisfied"].values[0, h]):
            continue
        by_where = {
            name: {short: float(of.sel(variant=long).values[h]) for short, long in VARIANTS.items()}
            for name, of in right.items()
        }
        worst = float(random[:, h].min())
        judged.append(
            {"rule": names[h], **by_where, "worst": worst, "matter": by_where["satisfied"]["without"] < worst}
        )
    attrs = table.attrs
    return HEURISTICS.document(
        model_facts(model),
        counts={
            **{name: int(attrs[name]) for name in ("answered", "pairs", "shared_tokens")},
            **{"cut": float(attrs["cut"]), "threshold": float(attrs["threshold"])},
            **{"neurons": len(neurons), "with_a_rule": int(matched.any(0).sum()), "tried": len(names)},
            **{"matches": int(matched.sum()), "by_chance": float(table["by_chance"].mean()) * len(neurons)},
        },
        asked={
            "template": str(attrs["template"]),
            "operator": str(attrs["operator"]),
            "largest": int(attrs["largest"]),
        },
        rules=rules,
        judged=judged,
        provenance={
            **model.provenance(),
            **{name: str(attrs[name]) for name in ("technique", "entry", "citation")},
        },
    )
