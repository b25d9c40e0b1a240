"""A circuit as one HTML page that opens offline: the graph, its nodes, the curve and the judgement."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from caseback.errors import CasebackError
from caseback.jobs.whole_file import whole_file
from caseback.reports.circuit import CIRCUIT
from caseback.reports.tokens_text import visible
from caseback.views.page.explanation import content_hash
from caseback.views.page.page_data import embedded_json, packed, rounded

__all__ = ["circuit_html", "write_circuit_page"]


def circuit_html(document: Mapping[str, Any]) -> str:
    """The document as one self-contained page.

    Parameters
    ----------
    document
        What ``circuit_document`` returned, or the same read from JSON.

    Raises
    ------
    CasebackError
        For a document of another kind or version, or a number in it that is not finite.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.reports.circuit import circuit_document
    >>> circuit = cb.Circuit.of("embed -> L0H1.v", "L0H1 -> logits")
    >>> page = circuit_html(circuit_document(cb.load("meadow"), "Mary gave the ball to", circuit))
    >>> page.startswith("<!doctype html>")
    True
    """
    CIRCUIT.check(document)
    static = files("caseback.views") / "static"
    script = (static / "circuit.js").read_text(encoding="utf-8")
    style = "".join((static / name).read_text(encoding="utf-8") for name in ("report.css", "circuit.css"))
    title = f"{document['task'] or 'A circuit'} · {visible(document['model']['name'])} · caseback"
    try:
        data = embedded_json(_page_data(document))
    except ValueError as error:
        raise CasebackError(f"the document holds a number that is not finite, and cannot be drawn: {error}") from error
    return Template((static / "circuit.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        script_hash=content_hash(script),
        style_hash=content_hash(style),
        style=style,
        tables=_tables(document),
        data=data,
        script=script,
    )


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
        Where the folder is missing or the path is a folder, and as ``circuit_html``.
    """
    path = Path(path)
    if not path.parent.is_dir() or path.is_dir():
        raise CasebackError(f"cannot write the page to {path}: expected a file name in a folder that exists")
    page = circuit_html(document)
    with whole_file(path) as draft:
        draft.write_text(page, encoding="utf-8", newline="\n")
    return path


def _page_data(document: Mapping[str, Any]) -> dict[str, Any]:
    """Smaller, and with tokens made visible."""
    page = dict(document)
    for name in ("tokens", "counterfactual", "predictions"):
        if page[name] is not None:
            page[name] = [{**token, "visible": visible(token["text"])} for token in page[name]]
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
    said = f"{size['edges']} of {document['total']} edges, {size['heads']} heads, {size['mlps']} MLPs"
    parts = [
        f"<h1>{html.escape(document['task'] or 'A circuit')}</h1>",
        f"<p>{html.escape(visible(document['model']['name']))}: {said}. The figures of this page need JavaScript.</p>",
        _table("Edges", ("from", "to", "score"), rows),
    ]
    for curve in document["curves"]:
        points = zip(curve["edges"], curve["recovered"], strict=True)
        title = f"Recovered by the best edges: {curve['method']}"
        parts.append(_table(title, ("edges", "recovered"), [(str(n), f"{f:.3f}") for n, f in points]))
    return "\n".join(parts)


def _table(caption: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table><caption>{html.escape(caption)}</caption>{''.join(lines)}</table>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:+.4g}"
