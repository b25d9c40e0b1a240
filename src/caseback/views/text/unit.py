"""Units in the terminal: their strongest tokens in context, colored by activation, the token itself in brackets.

Spaces and line breaks are visible. The brackets and the number in front say what matters without color.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.reports.unit import UNITS
from caseback.views.numbers_text import number, percent, signed
from caseback.views.text.bars import ASCII, UNICODE, Glyphs
from caseback.views.text.colors import SIGNED

__all__ = ["print_units"]

_FAINT = 0.3  # share of the unit's largest activation below which a token is not colored


@checked
def print_units(document: Mapping[str, Any], console: Console | None = None, *, ranges: bool = False) -> None:
    """Print the units of a document.

    Parameters
    ----------
    document
        What ``unit_document`` returns.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    ranges
        Also print examples from each unit's whole range.

    Raises
    ------
    CasebackError
        If it is not a document of units, or cannot be drawn truthfully.

    Examples
    --------
    ::

        print_units(unit_document(model, activating, [3]))
    """
    console = console or Console()
    with UNITS.drawing(document):
        lines = list(_lines(document, ASCII if console.options.ascii_only else UNICODE, ranges))
    for line in lines:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _lines(document: Mapping[str, Any], glyphs: Glyphs, ranges: bool) -> Iterator[Text]:
    model = visible(document["model"]["name"])
    yield Text(glyphs.text(f"{document['site']} of {model}: {document['tokens']} tokens"), "bold")
    for unit in document["units"]:
        most = max((abs(v) for e in unit["examples"] for v in e["values"]), default=0.0)
        fires = f"fires at {percent(unit['frequency'])} of tokens (above {number(document['threshold'])})"
        moments = f"mean {signed(unit['mean'])}, sd {number(unit['std'])}"
        yield Text("")
        yield Text(glyphs.text(f"unit {unit['unit']}  {fires}, {moments}"), style="bold")
        for example in unit["examples"]:
            yield _example(example, most, glyphs)
        for part in unit["ranges"] if ranges else ():
            yield Text(glyphs.text(f"  {signed(part['low'])} to {signed(part['high'])}"), style="dim")
            for example in part["examples"]:
                yield _example(example, most, glyphs)


def _example(example: Mapping[str, Any], most: float, glyphs: Glyphs) -> Text:
    line = Text(glyphs.text(f"{signed(example['value']):>9}  "))
    for i, (token, value) in enumerate(zip(example["tokens"], example["values"], strict=True)):
        strong = most > 0 and abs(value) >= _FAINT * most
        style = SIGNED[value > 0] if strong else ""
        text = glyphs.text(visible(token))
        line.append(f"[{text}]" if i == example["at"] else text, style=f"bold {style}" if i == example["at"] else style)
    return line
