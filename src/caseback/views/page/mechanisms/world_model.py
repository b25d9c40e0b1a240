"""A board in a model's stream, as one HTML page that opens offline: read by layer and square, and changed."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from caseback.reports.concepts.world_model import WORLD_MODEL
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, percent
from caseback.views.page.kit.curve_svg import curve_svg
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table
from caseback.views.page.page import Page
from caseback.views.text.concepts.world_model import board_words, plays_words, turned_words

__all__ = ["world_model_html"]


@checked
def world_model_html(document: Mapping[str, Any]) -> str:
    """A document of a world model as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.world_model.world_model_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"the board · {document['model']['name']}"


def _body(document: Mapping[str, Any]) -> str:
    layers, reading, edited, plain = (document[name] for name in ("layers", "reading", "edited", "plain"))
    parts = [
        lead(f"{_sentence(board_words(document))}. {_sentence(turned_words(document))}."),
        note(f"{plays_words(document)}."),
        "<h2>The board, read after each layer</h2>",
        note(
            "How often a stone is read rightly by a linear probe, mean over squares, as the mover's own or the "
            "other's. Dashed: as black or white. The band: the same of an untrained model, and of the boards of "
            "other games."
        ),
        _charts(layers, [(reading["own"], reading["color"], _band(reading), "stones read rightly")]),
        rows_table(
            ["layer", "mine or yours", "black or white", "untrained", "other games"],
            [
                (
                    str(i),
                    [
                        cell(percent(curve[at]))
                        for curve in (reading[n] for n in ("own", "color", "untrained", "other"))
                    ],
                )
                for at, i in enumerate(layers)
            ],
        ),
        "<h2>A stone turned</h2>",
        note(
            "Along what a stone on one square adds to the stream, this is moved so that the stone changes hands, after "
            f"one layer and at the last move. Without it, {percent(plain['legal'])} of the probability is on moves "
            f"that would then be legal, and {number(plain['errors'])} of the likeliest moves are in error. The band is "
            "the least and the largest mean of random directions as long."
        ),
        _charts(
            layers,
            [
                (
                    edited["errors"],
                    None,
                    (edited["errors_low"], edited["errors_high"]),
                    "errors, beside the edited board",
                ),
                (edited["legal"], None, (edited["legal_low"], edited["legal_high"]), "probability of its legal moves"),
            ],
        ),
        "<h2>Squares</h2>",
        rows_table(
            ["square", "mine or yours", "black or white", "most frequent stone"],
            [
                (visible(row["name"]), [cell(percent(row[name])) for name in ("own", "color", "majority")])
                for row in document["squares"]
            ],
        ),
    ]
    return frame(document, "Does it know {}?", "the board", *parts)


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _band(reading: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    both = list(zip(reading["untrained"], reading["other"], strict=True))
    return [min(pair) for pair in both], [max(pair) for pair in both]


def _charts(layers: list[int], drawn: list[tuple[Any, Any, Any, str]]) -> str:
    if len(layers) < 2:
        return note("Nothing to draw over one layer.")
    x = [float(i) for i in layers]
    figures = [
        f"<figure class='chart'><h3>{html.escape(words)}</h3>"
        f"{curve_svg(f'{words}, by layer', x, line, beside=beside, band=band)}</figure>"
        for line, beside, band, words in drawn
    ]
    return f"<div class='charts'>{''.join(figures)}</div>"


PAGE = Page(WORLD_MODEL, _title, _body, ("page", "concept"))
