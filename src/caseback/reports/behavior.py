"""Behaviors of a model as a document: margins beside chance, roles, heads, places, transfers, and what they share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from caseback.behaviors.mechanisms.declared import BEHAVIORS
from caseback.behaviors.mechanisms.overlap import overlap
from caseback.behaviors.mechanisms.report import BehaviorReport
from caseback.behaviors.mechanisms.shots import single
from caseback.errors import CasebackError
from caseback.jobs.json_text import finite_or_none
from caseback.model.arguments import checked
from caseback.model.loading.load import load
from caseback.model.running.model import Model
from caseback.organisms.compiled import build
from caseback.organisms.compiled.indirect_object import NAMES, TEMPLATES
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.tasks import ioi
from caseback.tasks.formats import word_functions
from caseback.tasks.standard.shots import FUNCTIONS
from caseback.tasks.task import Task

__all__ = ["BEHAVIOR", "behavior_document", "behavior_rows", "function_words", "model_and_words"]

BEHAVIOR = DocumentKind(
    "caseback.behavior", 1, "a document of behaviors", "behavior_document", sections=("behaviors", "overlaps")
)
HAND_MADE = "indirect_object"


@checked
def behavior_document(model: Model, reports: Sequence[BehaviorReport]) -> dict[str, Any]:
    """Behaviors of one model as plain data.

    Parameters
    ----------
    model
        The model.
    reports
        What ``caseback.behaviors.behavior`` and ``function_behavior`` gave for it.

    Returns
    -------
    dict
        ``behaviors`` has each report as ``BehaviorReport.to_json`` gives it, with None for what does not exist, and
        ``overlaps`` what each two of them share, as of ``Overlap``.

    Raises
    ------
    CasebackError
        For no report, or one of another model.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> document = behavior_document(model, [cb.behaviors.behavior(model, "induction", prompts=8)])
    >>> document["behaviors"][0]["present"], document["overlaps"]
    (True, [])
    """
    if not reports:
        raise CasebackError("no behavior was measured: expected a report or more")
    if odd := [one for one in reports if one.about_model.get("model") != model.name]:
        raise CasebackError(f"a report of {odd[0].about_model.get('model')!r}: expected reports of {model.name!r}")
    shared = [overlap(one, two).to_json() for one, two in combinations([r for r in reports if r.present], 2)]
    return BEHAVIOR.document(
        model_facts(model),
        behaviors=[finite_or_none(report.to_json()) for report in reports],
        overlaps=shared,
        provenance=model.provenance(),
    )


@checked
def behavior_rows() -> list[dict[str, Any]]:
    """The behaviors that are declared: name, what is asked, entry, citation, and roles with what proves them.

    Examples
    --------
    >>> [row["name"] for row in behavior_rows()][:2]
    ['ioi', 'greater_than']
    """
    return [
        {
            **{name: getattr(one, name) for name in ("name", "about", "entry", "citation")},
            "roles": [{"name": role.name, "about": role.about, "proof": role.proof} for role in one.roles],
        }
        for one in BEHAVIORS.values()
    ]


@checked
def model_and_words(name: str, **how: Any) -> tuple[Model, dict[str, Task]]:
    """A model, and tasks in other words where it does not know the usual ones.

    Parameters
    ----------
    name
        A bundled model, a folder or a hub id, or ``"indirect_object"``, which is made by hand.
    **how
        ``gguf_file``, ``allow_pickle`` and ``trust_remote_code``, as for ``cb.load``.

    Examples
    --------
    >>> model_and_words("indirect_object")[1]["ioi"].name
    'ioi'
    """
    if name == HAND_MADE:
        return build(name).model, {"ioi": ioi(templates=TEMPLATES).with_fillers(names=NAMES)}
    return load(name, **how), {}


@checked
def function_words(model: Model, name: str) -> list[tuple[str, str]]:
    """The pairs of words of a function.

    Parameters
    ----------
    model
        The model; of the functions known by name, only words of one token each are given.
    name
        ``antonym``, ``capital`` or another that ``cb.tasks.few_shot`` knows; or a file, as for
        ``cb.tasks.formats.word_functions``.

    Raises
    ------
    CasebackError
        If it is neither.

    Examples
    --------
    >>> import caseback as cb
    >>> function_words(cb.load("meadow"), "capital")[0]
    ('France', 'Paris')
    """
    if name in FUNCTIONS:
        return single(model, [(given, output) for given, output in FUNCTIONS[name]])
    if not os.path.isfile(name):
        raise CasebackError(
            f"{name!r} is neither a file nor a function that is known: expected a JSON file of pairs with 'input' and "
            f"'output', or one of {', '.join(FUNCTIONS)}"
        )
    return list(word_functions(name))
