"""A function as what one MLP adds, as one HTML page that opens offline: what comes of it, layer by layer."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from caseback.reports.concepts.argument_functions import ARGUMENT_FUNCTION
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import percent, signed
from caseback.views.page.kit.curve_svg import curve_svg
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table
from caseback.views.page.page import Page
from caseback.views.text.concepts.argument_functions import added_words, task_words

__all__ = ["argument_function_html"]


@checked
def argument_function_html(document: Mapping[str, Any]) -> str:
    """A document of a function as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.argument_functions.argument_function_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _name(document: Mapping[str, Any]) -> str:
    return visible(document["function"]) or "function"


def _title(document: Mapping[str, Any]) -> str:
    return f"{_name(document)} as an addition · {document['model']['name']}"


def _body(document: Mapping[str, Any]) -> str:
    layers, curves, random = document["layers"], document["curves"], document["random"]
    rows = zip(layers, *(curves[name] for name in ("function", "copying", "answers", "arguments")), strict=True)
    parts = [
        lead(f"{added_words(document)}."),
        note(f"The model {task_words(document)}."),
        "<h2>What is added, layer by layer</h2>",
        note(
            "What a layer's MLP writes at the last token of few-shot prompts of the function, on average, is added at "
            "the last token of prompts that only copy the word asked for. Dashed: what it writes in copying prompts; "
            "the band is the least and the largest mean of random vectors of the same norm."
        ),
        _charts(layers, curves, random),
        rows_table(
            ["layer", "log p(answer)", "copying's vector", "says the answer", "says the argument"],
            [
                (str(i), [cell(signed(a)), cell(signed(b)), cell(percent(c)), cell(percent(d))])
                for i, a, b, c, d in rows
            ],
        ),
        "<h2>Queries</h2>",
        note(f"With the vector of MLP {document['best']['layer']}."),
        rows_table(
            ["word", "answer", "says", "nats gained"],
            [
                (visible(row["argument"]), [cell(visible(row["answer"])), cell(row["says"]), cell(signed(row["gain"]))])
                for row in document["words"]
            ],
        ),
    ]
    return frame(document, "Which layer adds {}?", _name(document), *parts)


def _charts(layers: list[int], curves: Mapping[str, Any], random: Mapping[str, Any] | None) -> str:
    if len(layers) < 2:
        return note("Nothing to draw over one layer.")
    x = [float(i) for i in layers]
    nats = curve_svg(
        "log probability of the answer, by layer",
        x,
        curves["function"],
        beside=curves["copying"],
        band=(random["low"], random["high"]) if random else None,
    )
    shares = curve_svg("share of answers, by layer", x, curves["answers"])
    drawn = ((nats, "log probability of the answer"), (shares, "the answer is the first choice"))
    figures = [f"<figure class='chart'><h3>{html.escape(words)}</h3>{picture}</figure>" for picture, words in drawn]
    return f"<div class='charts'>{''.join(figures)}</div>"


PAGE = Page(ARGUMENT_FUNCTION, _title, _body, ("page", "concept"))
