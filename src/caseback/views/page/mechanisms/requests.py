"""Where requests are held, as one HTML page that opens offline: the third answer by layer, and what else comes."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from caseback.reports.concepts.requests import REQUESTS
from caseback.reports.document import checked
from caseback.views.numbers_text import percent
from caseback.views.page.kit.curve_svg import curve_svg
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table
from caseback.views.page.page import Page
from caseback.views.text.concepts.requests import pairs_words, third_words

__all__ = ["requests_html"]

_OTHERS = {"own": "the source's own answer", "other": "the receiver's own answer"}


@checked
def requests_html(document: Mapping[str, Any]) -> str:
    """A document of requests as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.requests.requests_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"requests · {document['model']['name']}"


def _body(document: Mapping[str, Any]) -> str:
    layers, states, example = document["layers"], document["states"], document["example"]
    asked, same, unrelated = states
    parts = [
        lead(f"{_first(third_words(document))}."),
        note(
            f"The model {pairs_words(document)}; the source's own answer is {example['own']}, the receiver's "
            f"{example['other']}."
        ),
        "<h2>Which answer comes</h2>",
        note(
            "The state behind a layer, at the last token of one prompt, stands in its place in a prompt that asks "
            "another thing of another subject. The third answer is the first prompt's request on the second's subject, "
            "which neither gives by itself. Dashed: the same when the state is of the second's own request."
        ),
        _charts(layers, asked, same),
        rows_table(
            [
                "layer",
                "third",
                "probability",
                *_OTHERS.values(),
                f"third, {same['state']}",
                f"third, {unrelated['state']}",
            ],
            [
                (
                    str(layer),
                    [
                        cell(percent(curve[i]))
                        for curve in (
                            *(asked[name] for name in ("third", "prob", *_OTHERS)),
                            *(state["third"] for state in (same, unrelated)),
                        )
                    ],
                )
                for i, layer in enumerate(layers)
            ],
        ),
        "<h2>Requests</h2>",
        note(f"Third answers behind layer {document['held']['layer']}, by what was asked and where it was put."),
        rows_table(
            ["requests", "pairs", "third answers"],
            [(row["pair"], [cell(str(row["count"])), cell(percent(row["share"]))]) for row in document["pairs"]],
        ),
    ]
    return frame(document, "Where is a {} held?", "request", *parts)


def _first(words: str) -> str:
    return words[:1].upper() + words[1:]


def _charts(layers: list[int], asked: Mapping[str, Any], same: Mapping[str, Any]) -> str:
    if len(layers) < 2:
        return note("Nothing to draw over one layer.")
    drawn = []
    for name, words in {"third": "the third answer", **_OTHERS}.items():
        picture = curve_svg(f"{words}, by layer", [float(i) for i in layers], asked[name], beside=same[name])
        drawn.append(f"<figure class='chart'><h3>{html.escape(words)}</h3>{picture}</figure>")
    return f"<div class='charts'>{''.join(drawn)}</div>"


PAGE = Page(REQUESTS, _title, _body, ("page", "concept"))
