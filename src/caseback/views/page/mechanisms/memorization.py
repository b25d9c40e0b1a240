"""Text known by heart, as one HTML page that opens offline: which texts, through which layers."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from caseback.reports.concepts.memorization import MEMORIZATION
from caseback.reports.document import checked
from caseback.views.page.kit.curve_svg import curve_svg
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table
from caseback.views.page.page import Page
from caseback.views.text.concepts.memorization import layer_words, verbatim_words

__all__ = ["memorization_html"]


@checked
def memorization_html(document: Mapping[str, Any]) -> str:
    """A document of memorized text as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.memorization.memorization_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"known by heart · {document['model']['name']}"


def _body(document: Mapping[str, Any]) -> str:
    name = document["name"] or "texts"
    some = document["counts"]["verbatim"] > 0
    parts = [lead(f"Of {name}, {verbatim_words(document)}.")]
    if some:
        parts += [
            "<h2>How layers come to it</h2>",
            note(f"{_sentence(layer_words(document, 'settled'))} {_sentence(layer_words(document, 'gradient'))}"),
            note(
                "Left, the rank of the continuation's first token by the logit lens at the prompt's last token, the "
                "geometric mean over the texts that are continued word for word; right, each layer's share of the "
                "squared gradient of the continuation's log probability. Dashed: the matched texts, the nearest "
                "in how sure the model is of them."
            ),
            _charts(document),
        ]
    parts += [
        "<h2>Texts</h2>",
        rows_table(
            ["text", "continuation", "word for word", "first from layer", "rank, words shuffled", "matched text"],
            [
                (
                    row["prompt"],
                    [
                        cell(row["continuation"]),
                        cell("yes" if row["verbatim"] else f"{row['written']} of {row['pieces']} tokens"),
                        cell("never" if row["settled"] is None else str(row["settled"])),
                        cell(str(row["shuffled_rank"])),
                        cell(row["matched"] or "none"),
                    ],
                )
                for row in document["texts"]
            ],
            faint=[not row["verbatim"] for row in document["texts"]],
        ),
    ]
    return frame(document, "Which {} does it know by heart?", name, *parts)


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _charts(document: Mapping[str, Any]) -> str:
    x = [float(i) for i in document["layers"]]
    if len(x) < 2:
        return note("Nothing to draw over one layer.")
    rank, gradient = document["curves"]["rank"], document["curves"]["gradient"]
    drawn = (
        (curve_svg("rank by layer", x, rank["prompt"], beside=rank["matched"], log=True), "rank of the next token"),
        (curve_svg("share of the gradient, by layer", x, gradient["prompt"], beside=gradient["matched"]), "gradient"),
    )
    figures = [f"<figure class='chart'><h3>{html.escape(words)}</h3>{picture}</figure>" for picture, words in drawn]
    return f"<div class='charts'>{''.join(figures)}</div>"


PAGE = Page(MEMORIZATION, _title, _body, ("page", "concept"))
