"""Which learner a model's predictions follow, as one HTML page that opens offline: distances, and predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseback.reports.concepts.in_context_learner import IN_CONTEXT_LEARNER
from caseback.reports.document import checked
from caseback.views.numbers_text import number, signed
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table
from caseback.views.page.page import Page
from caseback.views.text.concepts.in_context_learner import follows_words, learning_words

__all__ = ["in_context_learner_html"]

SHOWN = 20
"""Prompts in the second table."""


@checked
def in_context_learner_html(document: Mapping[str, Any]) -> str:
    """A document of learners as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.in_context_learner.in_context_learner_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _name(document: Mapping[str, Any]) -> str:
    return str(document["task"]) or "regression"


def _title(document: Mapping[str, Any]) -> str:
    return f"learning from a prompt · {document['model']['name']}"


def _body(document: Mapping[str, Any]) -> str:
    learners, verdict = document["learners"], document["verdict"]
    own, targets = document["predictions"], document["targets"]
    nearest = next(row for row in learners if row["name"] == verdict["follows"])
    parts = [
        lead(f"The model {follows_words(document)}."),
        note(f"{learning_words(document).capitalize()}."),
        "<h2>Learners, nearest first</h2>",
        note(
            "Each learner sees the numbers of a prompt's examples and predicts the number asked for; its one free "
            "number was fitted to the model on other prompts. Agreement is the correlation with the model's "
            "predictions once the mean of a prompt's outputs is taken out of both, beside 95% of those with "
            "predictions dealt out to other prompts. Faint: not above these."
        ),
        rows_table(
            ["learner", "squared difference", "agreement", "95% dealt anew", "free number", "misses targets by"],
            [(row["name"], _cells(row)) for row in learners],
            faint=[row["dealt"] is None or row["agreement"] <= row["dealt"] for row in learners],
        ),
        "<h2>Predictions</h2>",
        note(f"Of the first {min(SHOWN, len(own))} of {len(own)} held-out prompts, counted from the middle."),
        rows_table(
            ["prompt", "model", verdict["follows"], "target"],
            [
                (str(i + 1), [cell(signed(a)), cell(signed(b)), cell(signed(c))])
                for i, (a, b, c) in enumerate(zip(own, nearest["predictions"], targets, strict=True))
            ][:SHOWN],
        ),
    ]
    return frame(document, "Which learner answers {}?", _name(document), *parts)


def _cells(row: Mapping[str, Any]) -> list[str]:
    agreement = ["–" if row[name] is None else signed(row[name]) for name in ("agreement", "dealt")]
    return [
        cell(number(row["difference"]), small=f"± {number(row['error'])}"),
        *map(cell, agreement),
        cell(number(row["free"])),
        cell(number(row["miss"])),
    ]


PAGE = Page(IN_CONTEXT_LEARNER, _title, _body, ("page", "concept"))
