"""What emerges in training as one HTML page that opens offline: when each kind of head arises, and curves by step.

Every curve has its control beside it: the band of the best head by chance, or what the text's bigrams would give.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from caseback.reports.concepts.emergence import EMERGENCE
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number
from caseback.views.page.kit.curve_svg import curve_svg
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table
from caseback.views.page.page import Page
from caseback.views.text.concepts.emergence import arisen_words, missing_words

__all__ = ["emergence_html"]

Line = Sequence[float | None]


@checked
def emergence_html(document: Mapping[str, Any]) -> str:
    """A document of emergence as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.emergence.emergence_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"what arose in {visible(str(document['model']['name']))}"


def _body(document: Mapping[str, Any]) -> str:
    steps = document["steps"]
    kinds = [kind for kind in document["kinds"] if not kind["missing"]]
    curves = [curve for curve in document["curves"] if not curve["missing"]]
    parts = [
        lead(f"Over {len(steps)} checkpoints, of steps {steps[0]:,} to {steps[-1]:,}: {arisen_words(document)}"),
        "<h2>Kinds of heads</h2>",
        note(
            "The score of the best head, chosen on one half of what it was measured on and scored on the other; "
            "dashed, what the best of all heads reaches by chance or what a label needs, if that is more. A kind "
            "arises at the first step from which on some head has its label."
            + (" Steps are drawn by their logarithm." if _by_logarithm(steps) else "")
        ),
        _charts(steps, [(_heading(kind), kind["score"], _needed(kind)) for kind in kinds]),
        _kinds(steps, kinds),
        "<h2>Losses, n-grams and norms</h2>",
        note("Dashed, what stands beside each in the table."),
        _charts(steps, [(f"{curve['name']}", curve["values"], curve["beside"]) for curve in curves]),
        _curves(steps, curves),
    ]
    parts += [note(f"{words[0].upper()}{words[1:]}.") for words in missing_words(document)]
    return frame(document, "What arose in {}, and when?", visible(str(document["model"]["name"])), *parts)


def _heading(kind: Mapping[str, Any]) -> str:
    when = "from step " if kind["arises"] is not None else ""
    return f"{kind['kind']}, {when}{_when(kind)}"


def _when(kind: Mapping[str, Any]) -> str:
    if kind["arises"] is not None:
        return f"{kind['arises']:,}"
    return "not to the end" if any(kind["seen"]) else "not seen"


def _by_logarithm(steps: Sequence[int]) -> bool:
    """Whether half of the steps lie in the first tenth."""
    return 10 * steps[len(steps) // 2] < steps[-1]


def _needed(kind: Mapping[str, Any]) -> Line:
    return [kind["threshold"] if band is None else max(band, kind["threshold"]) for band in kind["band"]]


def _charts(steps: Sequence[int], rows: Sequence[tuple[str, Line, Line]]) -> str:
    x = [float(step) for step in steps]
    drawn = []
    for words, line, beside in rows:
        if all(value is None for value in line):
            picture = note("Nothing to draw.")
        else:
            dashed = beside if any(value is not None for value in beside) else None
            picture = curve_svg(f"{words}, by step", x, line, beside=dashed, log_x=_by_logarithm(steps))
        drawn.append(f"<figure class='chart'><h3>{html.escape(words)}</h3>{picture}</figure>")
    return f"<div class='charts'>{''.join(drawn)}</div>"


def _kinds(steps: Sequence[int], kinds: Sequence[Mapping[str, Any]]) -> str:
    """When each arises, and the best head before and at the end."""
    lines = []
    for kind in kinds:
        cells = [
            cell(_when(kind)),
            cell(_shown(kind["score"][0]), small=kind["best"][0]),
            cell(_shown(kind["score"][-1]), small=kind["best"][-1]),
            cell(_shown(kind["control"][-1])),
            cell(_shown(kind["band"][-1])),
            cell(str(kind["seen"][-1])),
            cell(kind["looks_at"]),
        ]
        lines.append((kind["kind"], cells))
    heads = ["kind", "arises at", "first", "last", "control", "by chance", "heads seen", "what it looks at"]
    return rows_table(heads, lines, faint=[kind["arises"] is None for kind in kinds])


def _curves(steps: Sequence[int], curves: Sequence[Mapping[str, Any]]) -> str:
    """Every number at every step."""
    heads, columns = ["step"], []
    for curve in curves:
        heads.append(curve["name"])
        columns.append(curve["values"])
        if any(value is not None for value in curve["beside"]):
            heads.append(curve["beside_is"])
            columns.append(curve["beside"])
    lines = [(f"{step:,}", [cell(_shown(column[i])) for column in columns]) for i, step in enumerate(steps)]
    return rows_table(heads, lines)


def _shown(value: float | None) -> str:
    return "–" if value is None else number(value)


PAGE = Page(EMERGENCE, _title, _body, ("page", "concept"))
