"""An explanation as a page: the question, the lens, inputs, components, attention, patching and checks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caseback.reports.document import Document, checked
from caseback.reports.explain_document import EXPLANATION
from caseback.reports.tokens_text import visible
from caseback.views.page.data import packed, rounded, with_visible
from caseback.views.page.explanation_tables import static_tables
from caseback.views.page.page import Page

__all__ = ["page_data", "report_html", "write_report"]


@checked
def report_html(explanation: Document) -> str:
    """The explanation as one self-contained HTML page.

    Parameters
    ----------
    explanation
        An explanation document: what ``caseback.reports.explain.explain`` returns, or the same read from JSON.

    Returns
    -------
    str
        The page. Without JavaScript it still shows the main numbers as tables.

    Raises
    ------
    CasebackError
        If it is not an explanation document, or cannot be drawn truthfully; the message names the place.

    Examples
    --------
    ::

        page = report_html(explain(model, "The Eiffel Tower is in", target=" Paris", foil=" Rome"))
    """
    return PAGE.html(explanation)


@checked
def write_report(explanation: Document, path: str | os.PathLike[str]) -> Path:
    """Write the page to a file, whole or not at all.

    Parameters
    ----------
    explanation
        An explanation document.
    path
        Where the page goes; its folder must exist, and an existing page is replaced.

    Returns
    -------
    Path
        The path written.

    Raises
    ------
    CasebackError
        If the folder is missing or cannot be written to, the path is a folder, or the document cannot be drawn.

    Examples
    --------
    ::

        write_report(explanation, "report.html")
    """
    return PAGE.write(explanation, path)


@checked
def page_data(explanation: Mapping[str, Any]) -> dict[str, Any]:
    """The document as the page's script reads it; the explanation itself is not changed.

    The lens's repeated texts become indices into one list.

    Parameters
    ----------
    explanation
        A checked explanation document (``explain_document.check_explanation``).

    Returns
    -------
    dict
        The same keys, with ``visible`` beside every token's ``text``, ``lens.texts`` (distinct visible texts)
        and ``lens.top`` (layers, tokens, k indices into them) instead of ``lens.top_text``, and each head's
        ``pattern`` as ``{"n": int, "scale": 65535, "data": base64 of gzip of little-endian uint16}`` or None.

    Examples
    --------
    ::

        page_data(explanation)["target"]    # {'id': 5335, 'text': ' Mary', 'visible': '␣Mary'}
    """
    texts: dict[str, int] = {}
    lens = {key: value for key, value in explanation["lens"].items() if key != "top_text"}
    lens["top"] = [
        [[texts.setdefault(visible(text), len(texts)) for text in cell] for cell in row]
        for row in explanation["lens"]["top_text"]
    ]
    lens["texts"] = list(texts)
    page = dict(explanation)
    page["tokens"] = [with_visible(token) for token in explanation["tokens"]]
    page["target"] = with_visible(explanation["target"])
    page["foil"] = with_visible(explanation["foil"])
    page["predictions"] = [with_visible(token) for token in explanation["predictions"]]
    page["lens"] = lens
    if page["patching"] is not None:
        page["patching"] = {
            **page["patching"],
            "corrupt": [with_visible(token) for token in page["patching"]["corrupt"]],
        }
    if page["story"] is not None:
        page["story"] = _story(page["story"])
    page["heads"] = [{**head, "pattern": packed(head.get("pattern"))} for head in explanation["heads"]]
    return rounded(page)


def _story(story: Mapping[str, Any]) -> dict[str, Any]:
    """The story with visible texts; the map of the stream is drawn from ``patching``, and is left out."""
    page = {key: value for key, value in story.items() if key != "stream"}
    page["parts"] = [{**part, "writes": [with_visible(word) for word in part["writes"]]} for part in story["parts"]]
    page["words"] = [with_visible(word) for word in story["words"]]
    page["runners_up"] = [_counterfactual(other) for other in story["runners_up"]]
    if story["counterfactual"] is not None:
        page["counterfactual"] = _counterfactual(story["counterfactual"])
    return page


def _counterfactual(one: Mapping[str, Any]) -> dict[str, Any]:
    changes = [{**change, "old": visible(change["old"]), "new": visible(change["new"])} for change in one["changes"]]
    tokens = [with_visible(token) for token in one["tokens"]]
    return {**one, "changes": changes, "tokens": tokens, "answer": with_visible(one["answer"])}


def _title(explanation: Mapping[str, Any]) -> str:
    target, foil = (visible(explanation[key]["text"]) for key in ("target", "foil"))
    return f"Why {target} and not {foil}? · {visible(explanation['model']['name'])}"


PAGE = Page(EXPLANATION, _title, static_tables, ("page", "explanation"), script="explanation", data=page_data)
