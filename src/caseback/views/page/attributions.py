"""Attributions side by side as one HTML page that opens offline, their main numbers as tables without JavaScript."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caseback.reports.attributions import ATTRIBUTIONS
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.page.data import rounded, with_visible
from caseback.views.page.kit.tables import table
from caseback.views.page.page import Page

__all__ = ["attributions_html", "write_attributions"]


@checked
def attributions_html(document: Mapping[str, Any]) -> str:
    """A document of attributions as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.attributions.compare_attributions`` returns, or the same read from JSON.

    Raises
    ------
    CasebackError
        If the document is not one of attributions.

    Examples
    --------
    ::

        page = attributions_html(compare_attributions(model, "Mary and John went to", "all"))
    """
    return PAGE.html(document)


@checked
def write_attributions(document: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the page to a file, whole or not at all, and return its path.

    Raises
    ------
    CasebackError
        If the folder is missing or cannot be written to, the path is a folder, or the document cannot be drawn.

    Examples
    --------
    ::

        write_attributions(document, "attributions.html")
    """
    return PAGE.write(document, path)


def _question(document: Mapping[str, Any]) -> str:
    against = "" if document["foil"] is None else f" and not {visible(document['foil']['text'])}"
    return f"Why {visible(document['target']['text'])}{against}?"


def _title(document: Mapping[str, Any]) -> str:
    return f"{_question(document)} · {visible(document['model']['name'])}"


def _data(document: Mapping[str, Any]) -> dict[str, Any]:
    page = dict(document)
    for name in ("tokens", "predictions"):
        page[name] = [with_visible(token) for token in page[name]]
    for name in ("target", "foil"):
        page[name] = None if page[name] is None else with_visible(page[name])
    if page["generation"] is not None:
        generation = dict(page["generation"])
        generation["sources"] = [with_visible(token) for token in generation["sources"]]
        generation["targets"] = [
            {**with_visible(token), "foil": None if token["foil"] is None else with_visible(token["foil"])}
            for token in generation["targets"]
        ]
        page["generation"] = generation
    return rounded(page)


def _tables(document: Mapping[str, Any]) -> str:
    methods, compared, generation = document["methods"], document["comparison"], document["generation"]
    parts = [
        f"<h1>{html.escape(_question(document))}</h1>",
        f"<p>{html.escape(visible(document['model']['name']))}: {html.escape(document['metric']['name'])} "
        f"{document['metric']['value']:+.4f}. The figures of this page need JavaScript; here are its main numbers.</p>",
        table(
            "Scores",
            (document["features"], *(method["label"] for method in methods)),
            (
                (visible(token["text"]), *(f"{method['scores'][i]:+.4f}" for method in methods))
                for i, token in enumerate(document["tokens"])
            ),
        ),
        table(
            "Faithfulness (AOPC)",
            ("method", "comprehensiveness", "sufficiency"),
            (
                (m["label"], f"{compared['comprehensiveness'][i]:+.4f}", f"{compared['sufficiency'][i]:+.4f}")
                for i, m in enumerate(methods)
            ),
        ),
        table(
            "Rank correlation of sizes",
            ("", *(method["label"] for method in methods)),
            (
                (m["label"], *("" if x is None else f"{x:+.3f}" for x in compared["spearman"][i]))
                for i, m in enumerate(methods)
            ),
        ),
    ]
    if generation is None:
        return "\n".join(parts)
    for method in generation["methods"]:
        rows = (
            (visible(target["text"]), *("" if x is None else f"{x:+.3f}" for x in row))
            for target, row in zip(generation["targets"], method["scores"], strict=True)
        )
        header = ("generated", *(visible(source["text"]) for source in generation["sources"]))
        parts.append(table(f"Each generated token: {method['label']}", header, rows))
    return "\n".join(parts)


PAGE = Page(ATTRIBUTIONS, _title, _tables, script="attributions", data=_data)
