"""Two atlases as one HTML page that opens offline: a line for each kind, then the units that changed, kind by kind."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from caseback.reports.concepts.atlas_comparison import ATLAS_COMPARISON
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, signed
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table
from caseback.views.page.page import Page
from caseback.views.text.concepts.atlas_comparison import compared_words

__all__ = ["atlas_comparison_html"]

_HEADS = (
    "Units with the label in each atlas and in both. Shared: those in both as a share of those in either; by chance: "
    "what 95 of 100 random sets as large share at most. Scores agree: the rank correlation of all units' scores, "
    "with a label or without."
)


@checked
def atlas_comparison_html(document: Mapping[str, Any]) -> str:
    """Two atlases as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.atlas_comparison.atlas_comparison_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"{visible(str(document['first'].get('model', '')))} and {visible(str(document['model']['name']))}"


def _body(document: Mapping[str, Any]) -> str:
    parts = [lead(compared_words(document)), "<h2>Kinds</h2>", note(_HEADS), _kinds(document)]
    for kind in document["kinds"]:
        if kind["gained"] or kind["lost"]:
            parts.append(f"<h3>{html.escape(kind['kind'])}</h3>{_changes(kind)}")
    if any(kind["gained"] or kind["lost"] for kind in document["kinds"]):
        parts.insert(4, "<h2>What changed</h2>")
        parts.insert(5, note("The units furthest past the band come first; those that a proof confirmed are marked."))
    else:
        parts.append(note("No unit gained or lost a label."))
    return frame(document, "What changed inside {}?", visible(str(document["model"]["name"])), *parts)


def _kinds(document: Mapping[str, Any]) -> str:
    rows = []
    for kind in document["kinds"]:
        shares = ["—" if kind[name] is None else number(kind[name]) for name in ("jaccard", "band")]
        counts = [*map(str, kind["sizes"]), str(len(kind["shared"]))]
        agree = "—" if kind["correlation"] is None else signed(kind["correlation"])
        cells = [cell(text) for text in (*counts, *shares, agree)]
        rows.append((kind["kind"], [cell(f"{kind['units']} {kind['sort']}s"), *cells]))
    heads = ["kind", "of", "first", "second", "both", "shared", "by chance", "scores agree"]
    return rows_table(heads, rows)


def _changes(kind: Mapping[str, Any]) -> str:
    rows = []
    for words, units, proved in (
        ("gained", kind["gained"], kind["proved"][1]),
        ("lost", kind["lost"], kind["proved"][0]),
        ("kept", kind["shared"], kind["proved"][1]),
    ):
        if units:
            named = [f"{unit} (proved)" if unit in proved else unit for unit in units]
            more = f", and {len(named) - _LISTED:,} more" if len(named) > _LISTED else ""
            rows.append((words, [cell(str(len(units))), cell(", ".join(named[:_LISTED]) + more)]))
    return rows_table(["", "units", "which"], rows)


_LISTED = 40  # units of a list; all are in the page's data

PAGE = Page(ATLAS_COMPARISON, _title, _body, ("page", "concept"))
