"""The explorer's page: what a server of one model sends first. Its script asks that server for everything else."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from caseback.reports.document import DocumentKind, checked
from caseback.views.page.page import Page

__all__ = ["EXPLORER_PAGE", "explorer_document"]

EXPLORER = DocumentKind(
    "caseback.explorer", 3, "a document of an explorer", "explorer_document", sections=("questions", "shelf")
)


@checked
def explorer_document(
    model: Mapping[str, Any], questions: Mapping[str, str], shelf: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the page starts from.

    Parameters
    ----------
    model
        The model's facts, as ``model_facts`` gives them.
    questions
        What can be asked, by name, each as people put it.
    shelf
        What can be named in questions: some of ``dictionaries`` and ``directions`` and how many there are, ``tasks``.

    Examples
    --------
    >>> explorer_document({"name": "meadow"}, {"story": "Why?"})["questions"]
    {'story': 'Why?'}
    """
    return EXPLORER.document(model, questions=dict(questions), shelf=dict(shelf or {}))


def _title(document: Mapping[str, Any]) -> str:
    return f"Explore {document['model']['name']}"


def _without_script(document: Mapping[str, Any]) -> str:
    name = html.escape(str(document["model"]["name"]))
    return f"<p>The explorer of {name} needs JavaScript. Without it, <code>caseback explain</code> writes pages.</p>"


EXPLORER_PAGE = Page(
    EXPLORER,
    title=_title,
    tables=_without_script,
    styles=("page", "explanation", "explorer"),
    script="explorer",
    reaches="; connect-src 'self'; frame-src 'self'",
)
