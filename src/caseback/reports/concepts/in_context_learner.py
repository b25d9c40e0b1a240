"""Which learner a model's predictions follow, as plain data: how far each is, beside the mean of a prompt's outputs.

    follows   the learner nearest on half of the prompts;    gap = mean over the others (difference to the mean's
    prediction - difference to its own),  error its standard error
    beside    learners that the others do not tell from it:  |gap between the two| <= 2 errors

It is followed where the gap, less two errors, is above 0 and the agreement above 95 % of predictions dealt out anew.
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

__all__ = ["IN_CONTEXT_LEARNER", "in_context_learner_document"]

ERRORS = 2


def _lengths(document: Mapping[str, Any]) -> None:
    learners = document["learners"]
    if odd := [row["name"] for row in learners if len(row["predictions"]) != len(document["predictions"])]:
        raise CasebackError(
            f"{odd[0]} has other prompts than the model: pass what in_context_learner_document returned"
        )


IN_CONTEXT_LEARNER = DocumentKind(
    "caseback.in_context_learner",
    1,
    "a document of learners",
    "in_context_learner_document",
    sections=("task", "how", "counts", "learners", "verdict", "predictions", "targets", "provenance"),
    lengths=_lengths,
)


@checked
def in_context_learner_document(model: Model, compared: xr.Dataset, task: str = "") -> dict[str, Any]:
    """What ``in_context_learner`` measured as plain data.

    Parameters
    ----------
    model
        The model.
    compared
        What ``caseback.behaviors.in_context_learner`` gave for it.
    task
        What the prompts ask, in a few words.

    Returns
    -------
    dict
        ``learners``, a row each, nearest first: the mean squared ``difference`` from the model's predictions with its
        standard ``error``, the ``agreement`` beyond the mean of outputs (None where there is none), 95 % of ``dealt``
        ones in size, the ``free`` number, the learner's own squared ``miss`` of the targets, and its ``predictions``.
        ``verdict``: who the model ``follows``, the ``gap`` to the mean of outputs with its ``error``, who is
        ``beside`` it, and whether it is ``followed``. ``predictions`` of the model and ``targets``. ``counts``: the
        model's own ``miss``, that of saying the middle always, how many ``prompts`` are judged, and the probability
        of all answers together.

    Raises
    ------
    CasebackError
        For another dataset, or one of another model.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.tasks.regression import digit_regression
    >>> model = cb.load("meadow")
    >>> compared = cb.behaviors.in_context_learner(model, digit_regression(20, shots=8))
    >>> len(in_context_learner_document(model, compared)["learners"])
    11
    """
    expect_result(model, compared, ("difference", "learned", "prediction", "agreement_control"), "in_context_learner")
    names = [str(name) for name in compared["variant"].values]
    apart = compared["difference"].transpose("variant", "batch").values
    learned = compared["learned"].transpose("variant", "batch").values
    own, target = compared["prediction"].values, compared["target"].values
    agreement = compared["agreement"].values
    control = np.abs(compared["agreement_control"].transpose("draw", "variant").values)
    dealt = [None if np.isnan(row).any() else float(np.quantile(row, 0.95)) for row in control.T]
    chosen, mean = names.index(compared.attrs["follows"]), names.index("mean")
    gaps = apart - apart[chosen]
    spread = gaps.std(-1, ddof=1) / np.sqrt(gaps.shape[-1])
    gap, error = float(gaps[mean].mean()), float(spread[mean])
    beside = [n for i, n in enumerate(names) if i != chosen and abs(gaps[i].mean()) <= ERRORS * spread[i]]
    bound = dealt[chosen]
    agrees = bound is not None and float(agreement[chosen]) > bound
    rows = [
        {
            "name": name,
            "difference": float(apart[i].mean()),
            "error": float(apart[i].std(ddof=1) / np.sqrt(apart.shape[-1])),
            "agreement": None if np.isnan(agreement[i]) else float(agreement[i]),
            "dealt": dealt[i],
            "free": float(compared["free"].values[i]),
            "miss": float(((learned[i] - target) ** 2).mean()),
            "predictions": learned[i].tolist(),
        }
        for i, name in enumerate(names)
    ]
    return IN_CONTEXT_LEARNER.document(
        model_facts(model),
        task=task,
        how={name: compared.attrs[name] for name in ("shots", "draws", "seed")},
        counts={
            "prompts": len(own),
            "answered": float(compared.attrs["answered"]),
            "miss": float(((own - target) ** 2).mean()),
            "middle": float((target**2).mean()),
        },
        learners=sorted(rows, key=lambda row: row["difference"]),
        verdict={
            **{"follows": names[chosen], "gap": gap, "error": error, "beside": beside},
            "followed": bool(gap - ERRORS * error > 0 and agrees),
        },
        predictions=own.tolist(),
        targets=target.tolist(),
        provenance={
            **model.provenance(),
            **{name: str(compared.attrs[name]) for name in ("technique", "entry", "citation")},
        },
    )
