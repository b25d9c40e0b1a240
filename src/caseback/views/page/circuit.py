"""A circuit as one HTML page that opens offline: the graph, its nodes, the curve and the judgment."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caseback.reports.circuit import CIRCUIT
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.page.data import packed, rounded, with_visible
from caseback.views.page.kit.tables import table
from caseback.views.page.page import Page

__all__ = ["circuit_html", "write_circuit_page"]


@checked
def circuit_html(document: Mapping[str, Any]) -> str:
    """The document as one self-contained page.

    Parameters
    ----------
    document
        What ``circuit_document`` returns, or the same read from JSON.

    Raises
    ------
    CasebackError
        For a document of another kind or version, or with a number that is not finite.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.reports.circuit import circuit_document
    >>> circuit = cb.Circuit.of("embed -> L0H1.v", "L0H1 -> logits")
    >>> page = circuit_html(circuit_document(cb.load("meadow"), "Mary gave the ball to", circuit))
    >>> page.startswith("<!doctype html>")
    True
    """
    return PAGE.html(document)


@checked
def write_circuit_page(document: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the page to a file, whole or not at all.

    Parameters
    ----------
    document
        As for ``circuit_html``.
    path
        Where the page goes; its folder must exist.

    Raises
    ------
    CasebackError
        If the folder is missing or the path is a folder, and as for ``circuit_html``.
    """
    return PAGE.write(document, path)


def _title(document: Mapping[str, Any]) -> str:
    return f"{document['task'] or 'A circuit'} · {visible(document['model']['name'])}"


def _data(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document as the script reads it: smaller, and with visible tokens."""
    page = dict(document)
    for name in ("tokens", "counterfactual", "predictions"):
        if page[name] is not None:
            page[name] = [with_visible(token) for token in page[name]]
    # orange edges support the target: under noising these are the ones whose score is negative
    page["supports"] = -1 if document["about"].get("direction") == "noising" else 1
    page["readings"] = {**page["readings"], "texts": [visible(text) for text in page["readings"]["texts"]]}
    page["patterns"] = {name: packed(pattern) for name, pattern in page["patterns"].items()}
    return rounded(page)


def _tables(document: Mapping[str, Any]) -> str:
    """The main numbers for readers without JavaScript."""
    size = document["size"]
    rows = [
        (edge["source"], edge["target"] + (f".{edge['slot']}" if edge["slot"] else ""), _number(edge["score"]))
        for edge in document["edges"]
        if edge["in"]
    ]
    summary = f"{size['edges']} of {document['total']} edges, {size['heads']} heads, {size['mlps']} MLPs"
    parts = [
        f"<h1>{html.escape(document['task'] or 'A circuit')}</h1>",
        f"<p>{html.escape(visible(document['model']['name']))}: {summary}. "
        "The figures of this page need JavaScript.</p>",
        table("Edges", ("from", "to", "score"), rows),
        *([] if document["judgement"] is None else _judgement(document["judgement"])),
    ]
    for curve in document["curves"]:
        points = zip(curve["edges"], curve["recovered"], strict=True)
        title = f"Recovered by the best edges: {curve['method']}"
        parts.append(table(title, ("edges", "recovered"), [(str(n), f"{f:.3f}") for n, f in points]))
    return "\n".join(parts)


def _judgement(judgement: Mapping[str, Any]) -> list[str]:
    """What is recovered under each ablation, and what was not judged."""
    rows = [
        (row["ablation"], *(f"{row[name]:.3f}" for name in ("recovered", "recovered_low", "recovered_high")))
        for row in judgement["faithfulness"]
    ]
    columns = ("cut edges carry", "recovered", "95 %, from", "to")
    of_groups = [(name, f"{share:.3f}") for name, share in judgement["groups"].items()]
    groups = [table("By group of prompts, the worst first", ("group", "recovered"), of_groups)] if of_groups else []
    left_out = judgement.get("left_out")
    unjudged = [table("Not judged", ("criterion", "why"), list(left_out.items()))] if left_out else []
    return [table("Judged", columns, rows), *groups, *unjudged]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:+.4g}"


PAGE = Page(CIRCUIT, _title, _tables, ("page", "circuit"), script="circuit", data=_data)
