"""What of a context a generation relies on, as one HTML page that opens offline.

The generation, each token shaded by how much the context moved it; the context, each shaded by the most that any of
these owes it; and the pairs that stand out. Orange supports the token that was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseback.reports.document import checked
from caseback.reports.inputs.context import CONTEXT
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table, token_strip
from caseback.views.page.page import Page
from caseback.views.text.inputs.context import MEASURED, context_words, cue_rows, selected_words

__all__ = ["context_html"]


@checked
def context_html(document: Mapping[str, Any]) -> str:
    """A document of a context as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.inputs.context.context_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"what of the context · {visible(document['model']['name'])}"


def _body(document: Mapping[str, Any]) -> str:
    how, generated = document["how"], document["generated"]
    owed = [
        max((row[i] for row in document["cues"] if row[i] is not None), key=abs, default=0.0)
        for i in range(len(document["context"]))
    ]
    parts = [
        lead(f"{context_words(document)}."),
        "<h2>The context</h2>",
        note(f"Shaded by the largest score ({how['method']}) that any token attributed below gives it."),
        "<div class='one-text'>" + token_strip(document["context"], owed) + "</div>",
        *([] if not document["current"] else [note(f"Then: {document['current']}")]),
        "<h2>The generation</h2>",
        note(f"Shaded by what the context moved: {MEASURED[how['measure']]}."),
        "<div class='one-text'>"
        + token_strip([row["text"] for row in generated], [row["score"] for row in generated])
        + "</div>",
        _moved(document),
    ]
    if document["pairs"]:
        rows = [(name, [cell(text) for text in others]) for name, *others in cue_rows(document)]
        parts += ["<h2>What comes from where</h2>", rows_table(["of the context", "for", "score", "instead of"], rows)]
    return frame(document, "What of {} does the answer rely on?", "the context", *parts)


def _moved(document: Mapping[str, Any]) -> str:
    rows = [
        (visible(row["text"]), [cell(number(row["score"])), cell(visible(row["without"]))])
        for row in document["generated"]
        if row["selected"]
    ]
    words = note(f"Those that count as moved ({selected_words(document)}), and what would have been written instead:")
    return words + rows_table(["token", "moved by", "without the context"], rows) if rows else ""


PAGE = Page(CONTEXT, _title, _body, ("page", "concept"))
