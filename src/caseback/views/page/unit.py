"""Units as one HTML page that opens offline: numbers, strongest examples, and examples from each unit's whole range.

A token's background is one of ten shades of a sign, its activation is its tooltip. Text of the corpus never becomes
markup.
"""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.reports.unit import UNITS
from caseback.views.numbers_text import number, percent, signed
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import lead, signed_class
from caseback.views.page.page import Page

__all__ = ["unit_html", "write_units"]


@checked
def unit_html(document: Mapping[str, Any]) -> str:
    """The units of a document as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.unit.unit_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


@checked
def write_units(document: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the page to a file, whole or not at all.

    Raises
    ------
    CasebackError
        If the folder is missing or cannot be written to.
    """
    return PAGE.write(document, path)


def _title(document: Mapping[str, Any]) -> str:
    return f"{document['site']} · {visible(document['model']['name'])}"


def _body(document: Mapping[str, Any]) -> str:
    words = (
        f"{document['tokens']:,} tokens in {document['rows']:,} rows. A token's color is the unit's activation there "
        "over its largest of those shown (orange above 0, blue below); the outlined token is the example."
    )
    units = [_unit(unit, document["threshold"]) for unit in document["units"]]
    return frame(document, "What activates {}?", document["site"], lead(words), *units)


def _unit(unit: Mapping[str, Any], threshold: float) -> str:
    shown = [*unit["examples"], *(e for part in unit["ranges"] for e in part["examples"])]
    most = max((abs(v) for e in shown for v in e["values"]), default=0.0)
    quantiles = {f"quantile {q}": "over" if x is None else signed(x) for q, x in unit["quantiles"].items()}
    facts = {
        f"above {number(threshold)}": f"{percent(unit['frequency'])} of tokens",
        "mean": signed(unit["mean"]),
        "sd": number(unit["std"]),
        **quantiles,
    }
    terms = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts.items())
    parts = [f"<h2>Unit {unit['unit']}</h2><dl class='numbers'>{terms}</dl><h3>Strongest</h3>"]
    parts += [_example(e, most) for e in unit["examples"]]
    for part in reversed(unit["ranges"]):
        if part["examples"]:
            parts.append(f"<h3>{html.escape(signed(part['low']))} to {html.escape(signed(part['high']))}</h3>")
            parts += [_example(e, most) for e in part["examples"]]
    return f"<section>{''.join(parts)}</section>"


def _example(example: Mapping[str, Any], most: float) -> str:
    tokens = []
    for i, (text, value) in enumerate(zip(example["tokens"], example["values"], strict=True)):
        classes = f"{signed_class(value / most if most else 0.0)}{' at' if i == example['at'] else ''}"
        tokens.append(
            f"<i class='{classes}' title='{html.escape(signed(value))}'>{html.escape(visible(text))}</i><wbr>"
        )
    return f"<p class='example' dir='auto'><b>{html.escape(signed(example['value']))}</b>{''.join(tokens)}</p>"


PAGE = Page(UNITS, _title, _body, ("page", "concept"))
