"""How dictionaries' training goes as one HTML page that opens offline: curves of each, rewritten while it lasts.

It is read again to see more. Names never become markup.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from caseback.reports.concepts.training import TRAINING
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number
from caseback.views.page.kit.curve_svg import curve_svg
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import lead, note
from caseback.views.page.page import Page

__all__ = ["PAGE"]

_CURVES = {
    "explained": "variance explained",
    "l0": "active features a token",
    "dead": "share of dead features",
    "error": "squared error",
}
_POINTS = 60  # of a curve: more cannot be told apart


def _title(document: Mapping[str, Any]) -> str:
    return f"training · {visible(document['model']['name'])}"


def _body(document: Mapping[str, Any]) -> str:
    dictionaries = document["dictionaries"]
    tokens = max(one["curve"]["tokens"][-1] for one in dictionaries)
    parts = [
        lead(f"{len(dictionaries)} in training on one stream, {tokens:,.0f} tokens so far."),
        note("Each point is one step's batch. Measure a dictionary on other text before you trust it."),
    ]
    for one in dictionaries:
        parts.append(f"<h2>{html.escape(one['name'])}</h2>{_charts(one['curve'])}")
    return frame(document, "How does the training on {} go?", visible(document["model"]["name"]), *parts)


def _charts(curve: Mapping[str, Sequence[float]]) -> str:
    tokens = curve["tokens"]
    last = ", ".join(f"{words} {number(curve[name][-1])}" for name, words in _CURVES.items())
    if len(tokens) < 2:
        return note(f"{last}.")
    step = -(-len(tokens) // _POINTS)
    at = [*range(0, len(tokens) - 1, step), len(tokens) - 1]
    drawn = [
        f"<figure class='chart'><h3>{words}</h3>"
        f"{curve_svg(words, [tokens[i] / 1000 for i in at], [curve[name][i] for i in at])}</figure>"
        for name, words in _CURVES.items()
    ]
    return f"<div class='charts'>{''.join(drawn)}</div>{note(f'By thousands of tokens. At the last: {last}.')}"


PAGE = Page(TRAINING, _title, _body, ("page", "concept"))
