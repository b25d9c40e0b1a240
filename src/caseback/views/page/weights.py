"""Weights as words as one HTML page that opens offline: token clouds, or pairs, and tables without JavaScript."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.reports.weights import WEIGHTS
from caseback.views.numbers_text import number, percent, signed
from caseback.views.page.kit.tables import table
from caseback.views.page.page import Page

__all__ = ["weights_html", "write_weights"]


@checked
def weights_html(document: Mapping[str, Any]) -> str:
    """A document of weights as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.weights.weights_document`` returns, or the same read from JSON.

    Raises
    ------
    CasebackError
        For a document of another kind or version, or with a number that is not finite.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.reports.weights import weights_document
    >>> model = cb.load("meadow")
    >>> pairs = cb.decode.vocabulary.circuit_pairs(model, "ov", 2, 4, k=3)
    >>> weights_html(weights_document(model, pairs)).startswith("<!doctype html>")
    True
    """
    return PAGE.html(document)


@checked
def write_weights(document: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the page to a file, whole or not at all, and return its path.

    Raises
    ------
    CasebackError
        If the folder is missing or cannot be written to, the path is a folder, or the document cannot be drawn.
    """
    return PAGE.write(document, path)


def _title(document: Mapping[str, Any]) -> str:
    return f"{document['title']} · {visible(document['model']['name'])}"


def _seen(value: Any) -> Any:
    """Plain data with the visible form beside every token's text, and numbers unchanged."""
    if isinstance(value, Mapping):
        shown = {key: _seen(item) for key, item in value.items()}
        return {**shown, "visible": visible(value["text"])} if "text" in value else shown
    return [_seen(item) for item in value] if isinstance(value, list | tuple) else value


def _tables(document: Mapping[str, Any]) -> str:
    title = html.escape(document["title"])
    model = html.escape(visible(document["model"]["name"]))
    heading = f"<h1>{title}</h1><p>{model}. The figures of this page need JavaScript; here are its numbers.</p>"
    tables = _pairs(document["pairs"]) if document["form"] == "pairs" else map(_panel, document["panels"])
    return "\n".join((heading, *tables))


def _panel(panel: Mapping[str, Any]) -> str:
    caption = panel["name"]
    if panel["value"] is not None:
        caption += f": {number(panel['value'])}, {percent(panel['share'])} of the squares"
    columns = [(side, end) for side in panel["sides"] for end in ("top", "bottom")]
    head = [f"{side['label']}, {'largest' if end == 'top' else 'smallest'}" for side, end in columns]
    cells = [[f"{_name(entry)} {signed(entry['value'])}" for entry in side[end]] for side, end in columns]
    return table(caption, head, zip(*cells, strict=True))


def _name(entry: Mapping[str, Any]) -> str:
    return visible(entry["text"]) if "text" in entry else f"#{entry['unit']}"


def _pairs(pairs: Mapping[str, Any]) -> Iterator[str]:
    for end, caption in (("top", "Largest"), ("bottom", "Smallest")):
        rows = ((_name(p["from"]), _name(p["to"]), signed(p["value"])) for p in pairs[end])
        yield table(caption, ("from", "to", "value"), rows)
    yield table("A token with itself", ("token", "value"), ((_name(t), signed(t["value"])) for t in pairs["own"]))
    share, own, mean = percent(pairs["copying"]), signed(pairs["own_mean"]), signed(pairs["mean"])
    yield f"<p>Own token largest in {share} of {pairs['rows']} rows; mean {own} with itself, {mean} over all.</p>"


PAGE = Page(WEIGHTS, _title, _tables, script="weights", data=_seen)
