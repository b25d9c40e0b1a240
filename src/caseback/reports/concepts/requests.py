"""Where requests are held, as plain data: which answer comes by layer, for three sorts of states that are put there.

    layer = argmax of the share of third answers on one half of the pairs;    share, error   on the other half

The state holds the request where this share, less two standard errors, is past both controls' there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from caseback.edit.facts import relation_facts
from caseback.errors import CasebackError
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.reports.concepts.facts import relation_of
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.tables.result_of import expect_result

__all__ = ["REQUESTS", "relations_of", "requests_document"]

ANSWERS = {"third": 1, "own": 2, "other": 3}
ERRORS = 2


def _lengths(document: Mapping[str, Any]) -> None:
    n = len(document["layers"])
    for row in document["states"]:
        if odd := [len(row[name]) for name in (*ANSWERS, "prob") if len(row[name]) != n]:
            raise CasebackError(f"a curve of {odd[0]} values over {n} layers: pass what requests_document returned")


REQUESTS = DocumentKind(
    "caseback.requests",
    1,
    "a document of requests",
    "requests_document",
    sections=("counts", "example", "layers", "states", "held", "pairs", "provenance"),
    lengths=_lengths,
)


@checked
def relations_of(names: Sequence[str]) -> tuple[list[str], list[str], list[list[str]]]:
    """Relations as requests, their common subjects, and each subject's answers.

    Parameters
    ----------
    names
        Relations by name, or files of them, as for ``relation_of``; of each its first wording is asked.

    Raises
    ------
    CasebackError
        For fewer than two relations, or no subject that all have.

    Examples
    --------
    >>> asked, subjects, answers = relations_of(["capital", "language"])
    >>> asked[0], answers[subjects.index("Italy")]
    ('The capital of {} is', ['Rome', 'Italian'])
    """
    if len(names) < 2:
        raise CasebackError(f"{len(names)} relation: expected two or more with the same subjects, as capital language")
    facts = [relation_facts(relation_of(name)) for name in names]
    each = [{fact.subject: str(fact.true) for fact in some} for some in facts]
    subjects = sorted(set.intersection(*(set(some) for some in each)))
    if not subjects:
        raise CasebackError(f"{', '.join(names)} have no subject in common: expected relations of the same subjects")
    return [some[0].prompt for some in facts], subjects, [[some[subject] for some in each] for subject in subjects]


@checked
def requests_document(model: Model, patched: xr.Dataset) -> dict[str, Any]:
    """What ``request_patching`` measured as plain data.

    Parameters
    ----------
    model
        The model.
    patched
        What ``caseback.behaviors.request_patching`` gave for it.

    Returns
    -------
    dict
        ``states`` has each sort of state with the shares of ``third``, ``own`` and ``other`` answers by layer and the
        mean probability (``prob``) of the third; ``held`` the ``layer`` chosen on one half, the ``share`` on the other
        with its ``error``, the ``control``, and whether it is ``above``; ``pairs`` the same share for each pair of
        requests.

    Raises
    ------
    CasebackError
        For another dataset, or one of another model.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> patched = cb.behaviors.request_patching(model, *relations_of(["capital", "language"]), count=12)
    >>> document = requests_document(model, patched)
    >>> document["held"]["layer"], len(document["states"])
    (0, 3)
    """
    expect_result(model, patched, ("says", "prob", "judged"), "request_patching")
    says = patched["says"].transpose("variant", "layer", "batch").values
    judged = patched["judged"].values
    third = says == ANSWERS["third"]
    layer = int(third[0][:, ~judged].mean(-1).argmax())
    held = third[:, layer, judged]
    share, control = float(held[0].mean()), float(held[1:].mean(-1).max())
    error = float(held[0].std(ddof=1) / np.sqrt(judged.sum()))
    names = ("source", "receiver", "third", "own", "other")
    kinds = patched["pair"].values
    return REQUESTS.document(
        model_facts(model),
        counts={
            **{name: int(patched.attrs[name]) for name in ("known", "asked")},
            **{"pairs": len(judged), "judged": int(judged.sum())},
        },
        example={name: str(patched[name].values[0]) for name in names},
        layers=patched["layer"].values.tolist(),
        states=[
            {
                "state": str(name),
                **{answer: (says[i] == k).mean(-1).tolist() for answer, k in ANSWERS.items()},
                "prob": patched["prob"].sel(variant=name).mean("batch").values.tolist(),
            }
            for i, name in enumerate(patched["variant"].values)
        ],
        held={
            **{"layer": layer, "share": share, "error": error, "control": control},
            "above": bool(share - ERRORS * error > control),
        },
        pairs=[
            {"pair": kind, "count": int((kinds == kind).sum()), "share": float(third[0, layer, kinds == kind].mean())}
            for kind in sorted(set(kinds.tolist()))
        ],
        provenance={
            **model.provenance(),
            **{name: str(patched.attrs[name]) for name in ("technique", "entry", "citation")},
        },
    )
