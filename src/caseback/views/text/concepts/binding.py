"""What binds things to their owners, in the terminal: whose thing is named, by what is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from caseback.reports.concepts.binding import BINDING
from caseback.reports.document import Document, checked, drawn_from
from caseback.views.numbers_text import percent, signed

__all__ = ["binding_words", "print_binding", "texts_words"]


@checked
def print_binding(document: Document, *, console: Console | None = None) -> None:
    """Print what ``binding_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with BINDING.drawing(document):
        say = lambda words: console.print(words, highlight=False, markup=False)  # noqa: E731
        say(f"{document['model']['name']}: {texts_words(document)}")
        say(binding_words(document))
        table = Table()
        for column in ("changed", "of", "own", "other's", "third", "margin"):
            table.add_column(column, justify="left" if column in ("changed", "of") else "right")
        for row in document["variants"]:
            shares = [percent(row[name]) for name in ("own", "other", "third")]
            table.add_row(row["variant"], row["part"], *shares, signed(row["margin"]))
        console.print(table)


@checked
@drawn_from("a document of binding", "binding_document")
def texts_words(document: Mapping[str, Any]) -> str:
    """What the texts are and how often the model is right, in words.

    Examples
    --------
    >>> texts_words({"counts": {"known": 18, "asked": 20, "margin": 2.5}, "example": "Mary lives in Rome."})
    'names the right thing in 18 of 20 texts such as “Mary lives in Rome.”, by a margin of +2.50'
    """
    counts = document["counts"]
    return (
        f"names the right thing in {counts['known']} of {counts['asked']} texts such as “{document['example']}”, by a "
        f"margin of {signed(counts['margin'])}"
    )


@checked
@drawn_from("a document of binding", "binding_document")
def binding_words(document: Mapping[str, Any]) -> str:
    """What the exchanges say, in words.

    Examples
    --------
    >>> row = {"variant": "exchanged states", "other": 1.0, "own": 0.0}
    >>> rows = [{**row, "part": part} for part in ("entities", "attributes", "both")]
    >>> binding_words({"ids": {"exchanged": False, "added": False}, "variants": rows})
    'not bound by IDs at both ends: exchanged states of entities name the other thing in 100%, of attributes in 100%, \
and of both in 100%'
    """
    shares = {row["part"]: row["other"] for row in document["variants"] if row["variant"] == "exchanged states"}
    ids = document["ids"]
    bound = "bound as by IDs at both ends" if ids["exchanged"] else "not bound by IDs at both ends"
    if ids["exchanged"]:
        bound += ", and mean differences carry them" if ids["added"] else "; mean differences do not carry them"
    return (
        f"{bound}: exchanged states of entities name the other thing in {percent(shares['entities'])}, of attributes "
        f"in {percent(shares['attributes'])}, and of both in {percent(shares['both'])}"
    )
