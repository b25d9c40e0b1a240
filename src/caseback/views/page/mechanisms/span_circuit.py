"""A circuit at named spans, as one HTML page that opens offline: where components write what the answer needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseback.reports.document import checked
from caseback.reports.graphs.span_circuit import SPAN_CIRCUIT
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import signed
from caseback.views.page.kit.curve_svg import curve_svg
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table, signed_class, tone_key
from caseback.views.page.page import Page
from caseback.views.text.graphs.span_circuit import cancelled_words

__all__ = ["span_circuit_html"]


@checked
def span_circuit_html(document: Mapping[str, Any]) -> str:
    """A document of a circuit at spans as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.graphs.span_circuit.span_circuit`` returns as its document.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"{visible(document['task'])} at its spans · {document['model']['name']}"


def _body(document: Mapping[str, Any]) -> str:
    size, about = document["size"], document["about"]
    places = document["places"]
    parts = [
        lead(
            f"{size['edges']} edges of {size['of']} at {len(places)} places. {cancelled_words(document['cancelled'])}"
        ),
        "<h2>What each component does where</h2>",
        note(
            "What the metric would lose, to first order, if the component's write at this place were the "
            "counterfactual's. Orange supports the answer, blue speaks against it."
        ),
        _map(document),
        "<h2>What is recovered</h2>",
        note(
            f"The best edges at places, and as many without: each of these stands at all {len(places)} places and "
            f"counts as {len(places)}. All others are set by {about['ablation']}, on {about['prompts']} prompts that "
            "the circuit was not found on; dashed: without places."
        ),
        _chart(document["curve"]),
        rows_table(
            ["edges at places", "share", "at places", "as many, everywhere"],
            [
                (str(row["edges"]), [cell(f"{100 * row['share']:.1f} %"), *(_shares(row[way]) for way in _WAYS)])
                for row in document["curve"]
            ],
        ),
        "<h2>Strongest edges</h2>",
        rows_table(
            ["edge", "place", "effect"],
            [(row["edge"], [cell(row["place"]), cell(signed(row["effect"]))]) for row in document["edges"]],
        ),
        "<h2>Places</h2>",
        rows_table(
            ["place", "prompts", "tokens", "such as"],
            [
                (
                    row["name"],
                    [cell(str(row["prompts"])), cell(str(row["tokens"])), cell(visible(row["example"]))],
                )
                for row in places
            ],
        ),
    ]
    return frame(document, "Where in the prompt does {} happen?", visible(document["task"]), *parts)


_WAYS = ("placed", "everywhere")


def _shares(values: list[float]) -> str:
    value, low, high = values
    return cell(f"{value:.2f}", small=f"{low:.2f}–{high:.2f}")


def _map(document: Mapping[str, Any]) -> str:
    rows = document["map"]
    most = max((abs(x) for row in rows for x in row["effects"]), default=0.0) or 1.0
    body = [
        (
            row["component"],
            [cell(signed(round(x, 2)), more=f"class='{signed_class(x / most)}'") for x in row["effects"]],
        )
        for row in rows
    ]
    heads = ["component", *(place["name"] for place in document["places"])]
    return tone_key("against", "for the answer", -most, most) + rows_table(heads, body)


def _chart(curve: list[Mapping[str, Any]]) -> str:
    placed, everywhere = ([row[way][0] for row in curve] for way in _WAYS)
    at = [float(i) for i in range(len(curve))]
    picture = curve_svg("share recovered, by size", at, placed, beside=everywhere)
    return f"<div class='charts'><figure class='chart'><h3>share recovered, row by row</h3>{picture}</figure></div>"


PAGE = Page(SPAN_CIRCUIT, _title, _body, ("page", "concept"))
