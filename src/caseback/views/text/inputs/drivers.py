"""What drives one unit at one place of a prompt, in words and in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from caseback.reports.document import Document, checked, drawn_from
from caseback.reports.quick.drivers import UNIT_DRIVERS
from caseback.views.numbers_text import percent, signed
from caseback.views.text.bars import ASCII, UNICODE, signed_bar
from caseback.views.text.colors import SIGNED

__all__ = ["driver_columns", "driver_rows", "driver_words", "print_drivers"]

_HALF = 10


@checked
def print_drivers(document: Document, *, console: Console | None = None) -> None:
    """Print what ``unit_drivers`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    glyphs = UNICODE if console.encoding.startswith("utf") else ASCII
    with UNIT_DRIVERS.drawing(document):
        console.print(glyphs.text(f"{driver_words(document)}."), highlight=False, markup=False)
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
        for name in driver_columns(document):
            table.add_column(name)
        table.add_column("weight", justify="right")
        table.add_column("")
        most = max((abs(row["weight"]) for row in document["rows"]), default=0.0) or 1.0
        for names, weight in driver_rows(document):
            bar = signed_bar(weight / most, _HALF, glyphs, SIGNED)
            table.add_row(*map(glyphs.text, names), glyphs.text(signed(weight)), bar)
        table.add_row("all others", "", glyphs.text(signed(document["rest"])), "", style="dim")
        console.print(table)


@checked
@drawn_from("a document of a unit's drivers", "unit_drivers")
def driver_columns(document: Mapping[str, Any]) -> tuple[str, str]:
    """The headings of the two columns of ``driver_rows``.

    Examples
    --------
    >>> driver_columns({"of": {"kind": "head"}}), driver_columns({"of": {"kind": "neuron"}})
    (('at the query', 'at the key'), ('written by', 'read through'))
    """
    return ("at the query", "at the key") if document["of"]["kind"] == "head" else ("written by", "read through")


@checked
@drawn_from("a document of a unit's drivers", "unit_drivers")
def driver_rows(document: Mapping[str, Any]) -> list[tuple[tuple[str, str], float]]:
    """Each row's two names, as text, and its weight.

    Examples
    --------
    >>> row = {"writers": [{"name": "embed", "pos": 0}], "through": "", "weight": 0.5}
    >>> driver_rows({"of": {"kind": "neuron"}, "tokens": [{"visible": "Mary"}], "rows": [row]})
    [(('the token Mary (0)', 'directly'), 0.5)]
    """
    rows = []
    for row in document["rows"]:
        first, *others = (_writer(writer, document["tokens"]) for writer in row["writers"])
        rows.append(((first, others[0] if others else row["through"] or "directly"), row["weight"]))
    return rows


def _writer(writer: Mapping[str, Any], tokens: list[Mapping[str, Any]]) -> str:
    if writer["name"] is None:
        return "biases"
    name = "the token" if writer["name"] == "embed" else f"{writer['name']} at"
    return name if writer["pos"] is None else f"{name} {tokens[writer['pos']]['visible']} ({writer['pos']})"


@checked
@drawn_from("a document of a unit's drivers", "unit_drivers")
def driver_words(document: Mapping[str, Any]) -> str:
    """What was split, in words.

    Examples
    --------
    >>> of = {"kind": "neuron", "key": None, "pattern": None}
    >>> driver_words({"unit": "L3N17", "of": of, "pos": 0, "tokens": [{"visible": "b"}], "value": 0.5})
    'L3N17 at b (0): its activation function takes +0.50, of which each row is what one writer brought by one way'
    """
    of, value = document["of"], signed(document["value"])
    place = lambda pos: f"{document['tokens'][pos]['visible']} ({pos})"  # noqa: E731
    at = f"{document['unit']} at {place(document['pos'])}"
    if of["kind"] == "head":
        return (
            f"{at} gives {percent(of['pattern'])} of its attention to {place(of['key'])}: its score before the softmax "
            f"is {value}, of which each row is what one pair of writers brought"
        )
    what = "its activation function takes" if of["kind"] == "neuron" else "it is active by"
    return f"{at}: {what} {value}, of which each row is what one writer brought by one way"
