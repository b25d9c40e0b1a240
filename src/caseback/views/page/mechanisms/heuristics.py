"""A bag of heuristics as one HTML page that opens offline: rules with matched neurons, and sums without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseback.reports.concepts.heuristics import HEURISTICS
from caseback.reports.document import checked
from caseback.views.numbers_text import number, percent
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table
from caseback.views.page.page import Page
from caseback.views.text.concepts.heuristics import rules_words, sums_words

__all__ = ["heuristics_html"]


@checked
def heuristics_html(document: Mapping[str, Any]) -> str:
    """A document of heuristics as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.heuristics.heuristics_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"heuristics · {document['model']['name']}"


def _body(document: Mapping[str, Any]) -> str:
    parts = [
        lead(f"The model {sums_words(document)}."),
        note(f"{rules_words(document)}."),
        "<h2>Without a rule's neurons</h2>",
        note(
            "Right answers of pairs that nothing was matched on, when the rule's neurons write nothing at the last "
            "token: where the rule holds and where not; and, where it holds, without as many other important neurons, "
            "on average and at least, drawn anew."
        ),
        rows_table(
            ["rule", "as it is", "where it holds", "where not", "without others", "at least"],
            [
                (
                    row["rule"],
                    [
                        cell(percent(value))
                        for value in (
                            *(row["satisfied"][name] for name in ("clean", "without")),
                            row["others"]["without"],
                            row["satisfied"]["random"],
                            row["worst"],
                        )
                    ],
                )
                for row in document["judged"]
            ],
        ),
        "<h2>Rules</h2>",
        note(
            "Of a neuron's strongest pairs, as many as satisfy the rule, the share that does, less that of all pairs; "
            "held out: the same of the other half of the pairs. Means of the matched neurons."
        ),
        rows_table(
            ["rule", "neurons", "score", "held out", "the best"],
            [
                (
                    row["rule"],
                    [
                        *(cell(text) for text in (str(row["matched"]), number(row["score"]), number(row["held_out"]))),
                        cell(" ".join(row["neurons"])),
                    ],
                )
                for row in document["rules"]
            ],
        ),
    ]
    return frame(document, "Which {} do its neurons follow in sums?", "rules", *parts)


PAGE = Page(HEURISTICS, _title, _body, ("page", "concept"))
