"""What binds things to their owners, as one HTML page that opens offline: whose thing is named, by what is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseback.reports.concepts.binding import BINDING
from caseback.reports.document import checked
from caseback.views.numbers_text import percent, signed
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table
from caseback.views.page.page import Page
from caseback.views.text.concepts.binding import binding_words, texts_words

__all__ = ["binding_html"]

_WHAT = {
    "exchanged states": "From the same text with these words exchanged, so that each state has the other's number. "
    "IDs at both ends: the other's, the other's, own.",
    "moved states": "Each other's states, at each other's places. IDs: own, own, own.",
    "added differences": "The mean difference of both numbers, from other texts. IDs: the other's, the other's, own.",
    "random directions": "As long as these differences. Own, own, own, or the others say nothing.",
}


@checked
def binding_html(document: Mapping[str, Any]) -> str:
    """A document of binding as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.binding.binding_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"binding · {document['model']['name']}"


def _body(document: Mapping[str, Any]) -> str:
    words = binding_words(document)
    parts = [
        lead(f"{words[:1].upper()}{words[1:]}."),
        note(f"The model {texts_words(document)}."),
        note(
            "All states of what is told are held as they are, at every layer, but for those of the entity that is "
            "asked about and of another, of their attributes, or of both. The question reads them: whose attribute is "
            "likeliest?"
        ),
    ]
    for variant, words in _WHAT.items():
        rows = [row for row in document["variants"] if row["variant"] == variant]
        parts += [
            f"<h2>{variant[:1].upper()}{variant[1:]}</h2>",
            note(words),
            rows_table(
                ["of", "own", "the other's", "a third", "margin"],
                [
                    (
                        row["part"],
                        [cell(percent(row[name])) for name in ("own", "other", "third")]
                        + [cell(signed(row["margin"]))],
                    )
                    for row in rows
                ],
            ),
        ]
    return frame(document, "What {} whose it is?", "tells", *parts)


PAGE = Page(BINDING, _title, _body, ("page", "concept"))
