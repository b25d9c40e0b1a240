"""An edit of facts in the terminal: each prompt before and after, the measures, and what else changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from caseback.reports.document import Document, checked
from caseback.reports.editing import EDITING
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, percent

__all__ = ["not_taken", "print_editing"]


@checked
def print_editing(document: Document, *, console: Console | None = None) -> None:
    """Print what ``editing_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with EDITING.drawing(document):
        layers = ", ".join(map(str, document["layers"]))
        console.print(
            f"{document['model']['name']}: {document['method']} at layer {layers}, {len(document['facts'])} fact"
            f"{'s' * (len(document['facts']) != 1)}",
            highlight=False,
            markup=False,
        )
        for fact in document["facts"]:
            true = "" if fact["true"] is None else f"{_spoken(fact['true'])} →"
            console.print(f"\n{_spoken(fact['text'])}:{true}{_spoken(fact['new'])}", highlight=False, markup=False)
            console.print(_prompts(fact["prompts"]))
        measures = _table("measure", "before", "after")
        for name, values in document["summary"].items():
            if values["after"] is not None:
                shown = ("–" if values[when] is None else number(values[when]) for when in ("before", "after"))
                measures.add_row(name, *shown)
        console.print(measures)
        for change in document["changes"]:
            words = (
                "a memory beside it"
                if change["norm"] is None
                else f"changed by {number(change['norm'])}, {percent(change['share'])} of its norm"
            )
            console.print(f"{change['site']}: {words}", highlight=False, markup=False)
        if (side := document["plain_text"]) is not None:
            console.print(
                f"on {side['texts']} plain texts: KL {number(side['kl'])} nats, perplexity "
                f"{number(side['perplexity_before'])} before, {number(side['perplexity_after'])} after",
                highlight=False,
            )
        if words := not_taken(document):
            console.print(words, highlight=False, markup=False)
        console.print(document["remark"], highlight=False, markup=False)


@checked
def not_taken(document: Mapping[str, Any]) -> str:
    """What to try where the edited prompts do not give the new answers; empty where all do.

    Examples
    --------
    >>> prompts = [{"group": "efficacy", "after": {"exact": False}}]
    >>> not_taken({"facts": [{"prompts": prompts}], "layers": [1]})
    'The edit did not take: 0 of 1 edited prompts give the new answer. Other layers than 1 may: give --layers.'
    """
    own = [row for fact in document["facts"] for row in fact["prompts"] if row["group"] == "efficacy"]
    taken = sum(bool(row["after"]["exact"]) for row in own)
    if taken == len(own):
        return ""
    where = ", ".join(map(str, document["layers"]))
    return (
        f"The edit did not take: {taken} of {len(own)} edited prompts give the new answer. Other layers than {where} "
        "may: give --layers."
    )


def _prompts(rows: list[Mapping[str, Any]]) -> Table:
    table = _table("prompt", "wanted", "before", "rank", "after", "rank", "right")
    for row in rows:
        cells = []
        for when in ("before", "after"):
            cells += [visible(row[when]["says"]), str(row[when]["rank"])]
        right = "yes" if row["after"]["exact"] else "no"
        table.add_row(
            Text(f"{row['group']}: {_spoken(row['text'])}"), *map(Text, (visible(row["answer"]), *cells, right))
        )
    return table


def _spoken(text: str) -> str:
    """A text in one line, its spaces as they are."""
    return visible(text).replace("␣", " ")


def _table(first: str, *titles: str) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column(first)
    for title in titles:
        table.add_column(title, justify="right", overflow="fold")
    return table
