"""Explanations put to a judge as one HTML page that opens offline: scores beside another's words, and beside chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseback.reports.concepts.judged_explanations import JUDGED
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table
from caseback.views.page.page import Page
from caseback.views.text.concepts.judged_explanations import judged_words

__all__ = ["judged_explanations_html"]


@checked
def judged_explanations_html(document: Mapping[str, Any]) -> str:
    """A document of judged explanations as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.judged_explanations.judged_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"judged explanations of {document['dictionary']['site']} · {visible(document['model']['name'])}"


def _body(document: Mapping[str, Any]) -> str:
    how, words = document["how"], judged_words(document)
    judge = f" asked of {how['judge']}" if how["judge"] else ""
    source = f" The words: {how['source']}." if how["source"] else ""
    return frame(
        document,
        "Is what is said of features of {} right?",
        document["dictionary"]["site"],
        lead(f"{words[:1].upper()}{words[1:]}."),
        note(
            f"{how['asked']:,} questions{judge}: whether a feature that is said to fire at something fires in a window "
            f"of {how['window']} tokens (detection), and whether it fires at the marked words of it (fuzzing). Each is "
            f"asked of at most {how['n']} windows in which the feature fires, and as often where it does not.{source}"
        ),
        note(
            "Areas under the curve: .50 is a judge that knows nothing, 1 one that is always right. Small, the share "
            "right where more than a half is a yes; beside it the same questions with another feature's words, and "
            "chance, what a judge that knows nothing passes once in twenty. Faint: above chance in neither."
        ),
        rows_table(
            ["feature", "said to fire at", "windows", *(head for name in document["means"] for head in _heads(name))],
            [(str(row["feature"]), [*_saying(row), *_cells(row, document)]) for row in document["features"]],
            faint=[not any(row[name]["above"] for name in document["means"]) for row in document["features"]],
        ),
    )


def _heads(name: str) -> tuple[str, str, str]:
    return name, "another's words", "chance"


def _saying(row: Mapping[str, Any]) -> list[str]:
    words = visible(row["explanation"]).replace("␣", " ")  # conditions show their spaces in quotes
    return [cell(words, more="class='words long'"), cell(str(row["windows"]))]


def _cells(row: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    cells = []
    for name in document["means"]:
        one = row[name]
        cells += [cell(_shown(one["auroc"]), small=_shown(one["accuracy"]))]
        cells += [cell(_shown(one["another"])), cell(_shown(one["chance"]))]
    return cells


def _shown(share: float | None) -> str:
    return "–" if share is None else f"{share:.2f}".removeprefix("0")


PAGE = Page(JUDGED, _title, _body, ("page", "concept"))
