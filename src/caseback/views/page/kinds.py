"""Which file draws which kind of document, and one entry point to the page of any of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from caseback.errors import CasebackError
from caseback.plugins import loaded
from caseback.reports.document import Document, checked
from caseback.views.page.page import Page

__all__ = ["PAGES", "page_html", "page_of", "write_page"]

# kind of document: the file beside this one, or in a room of it, whose ``PAGE`` draws it
PAGES = {
    "caseback.argument_function": "mechanisms.argument_functions",
    "caseback.atlas": "atlas",
    "caseback.atlas_comparison": "mechanisms.atlas_comparison",
    "caseback.attributed_prompts": "inputs.attributed_prompts",
    "caseback.attributions": "attributions",
    "caseback.behavior": "behavior",
    "caseback.circuit": "circuit",
    "caseback.context_memory": "mechanisms.context_memory",
    "caseback.context_reliance": "inputs.context",
    "caseback.directions": "directions",
    "caseback.editing": "editing",
    "caseback.emergence": "mechanisms.emergence",
    "caseback.erasure": "erasure",
    "caseback.dictionaries": "dictionaries",
    "caseback.dictionary": "dictionary",
    "caseback.explanation": "explanation",
    "caseback.facts": "mechanisms.facts",
    "caseback.features": "features",
    "caseback.graph": "graph",
    "caseback.in_context_learner": "mechanisms.in_context_learner",
    "caseback.judged_explanations": "mechanisms.judged_explanations",
    "caseback.memorization": "mechanisms.memorization",
    "caseback.probe": "probe",
    "caseback.binding": "mechanisms.binding",
    "caseback.heuristics": "mechanisms.heuristics",
    "caseback.needle": "mechanisms.needle",
    "caseback.requests": "mechanisms.requests",
    "caseback.routing": "mechanisms.routing",
    "caseback.span_circuit": "mechanisms.span_circuit",
    "caseback.steering": "steering",
    "caseback.stories": "mechanisms.stories",
    "caseback.training": "training",
    "caseback.truth": "mechanisms.truth",
    "caseback.unit_drivers": "inputs.drivers",
    "caseback.units": "unit",
    "caseback.universality": "mechanisms.universality",
    "caseback.weights": "weights",
    "caseback.world_model": "mechanisms.world_model",
}


@checked
def page_of(document: Any) -> Page:
    """The page that draws a document.

    Raises
    ------
    CasebackError
        If no page draws documents of its kind.

    Examples
    --------
    >>> page_of({"kind": "caseback.circuit"}).script
    'circuit'
    >>> page_of({"kind": "caseback.poem"})
    Traceback (most recent call last):
    caseback.errors.CasebackError: no page draws a 'caseback.poem': expected a document of the kind ...
    """
    kind = document.get("kind") if isinstance(document, Mapping) else type(document).__name__
    if kind not in PAGES and isinstance(kind, str) and (page := loaded("pages", kind, Page)) is not None:
        return page
    if kind not in PAGES:
        raise CasebackError(
            f"no page draws a {kind!r}: expected a document of the kind {' or '.join(PAGES)}, as the functions of "
            "caseback.reports return it"
        )
    return import_module(f"caseback.views.page.{PAGES[kind]}").PAGE


@checked
def page_html(document: Document) -> str:
    """Any document as one self-contained page.

    Parameters
    ----------
    document
        What a function of ``caseback.reports`` returns, or the same read from JSON.

    Returns
    -------
    str
        The page. Without JavaScript it still shows the main numbers as tables.

    Raises
    ------
    CasebackError
        If no page draws it, or it cannot be drawn truthfully; the message names the place.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.reports.circuit import circuit_document
    >>> circuit = cb.Circuit.of("embed -> L0H1.v", "L0H1 -> logits")
    >>> page_html(circuit_document(cb.load("meadow"), "Mary gave the ball to", circuit)).startswith("<!doctype html>")
    True
    """
    return page_of(document).html(document)


@checked
def write_page(document: Document, path: str | os.PathLike[str]) -> Path:
    """Write any document as a page to a file, whole or not at all, and return its path.

    Parameters
    ----------
    document
        As for ``page_html``.
    path
        Where the page goes; its folder must exist, and an existing page is replaced.

    Raises
    ------
    CasebackError
        If the folder is missing or cannot be written to, the path is a folder, or the document cannot be drawn.

    Examples
    --------
    ::

        write_page(explain(model, "The Eiffel Tower is in"), "why.html")
    """
    return page_of(document).write(document, path)
