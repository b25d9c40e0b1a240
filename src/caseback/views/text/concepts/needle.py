"""What a model finds in long prompts, in the terminal: recall by length and depth, and the heads that bring words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from caseback.reports.concepts.needle import NEEDLE
from caseback.reports.document import Document, checked, drawn_from
from caseback.views.numbers_text import number, percent

__all__ = ["bringers_words", "found_words", "print_needle"]

LISTED = 12


@checked
def print_needle(document: Document, *, console: Console | None = None) -> None:
    """Print what ``needle_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with NEEDLE.drawing(document):
        say = lambda words: console.print(words, highlight=False, markup=False)  # noqa: E731
        say(f"{document['model']['name']}: {found_words(document)}")
        say(bringers_words(document))
        recall = Table(title="recall by depth", title_justify="left")
        for column in ("tokens", *map(percent, document["depths"])):
            recall.add_column(column, justify="right")
        for length, row in zip(document["lengths"], document["recall"], strict=True):
            recall.add_row(str(length), *map(percent, row))
        console.print(recall)
        heads = Table()
        for column in ("head", "score", "held out", "another's word"):
            heads.add_column(column, justify="left" if column == "head" else "right")
        for row in document["heads"][:LISTED]:
            values = (row["score"], row["held_out"], row["distractor"])
            heads.add_row(row["head"], *("–" if value is None else number(value) for value in values))
        console.print(heads)
        if (more := len(document["heads"]) - LISTED) > 0:
            say(f"and {more} more; --json has them all")


@checked
@drawn_from("a document of a needle test", "needle_document")
def found_words(document: Mapping[str, Any]) -> str:
    """How often the word is found, in words.

    Examples
    --------
    >>> found_words({"counts": {"recalled": 90, "prompts": 120}})
    'says the word in 90 of 120 prompts'
    """
    counts = document["counts"]
    return f"says the word in {counts['recalled']} of {counts['prompts']} prompts"


@checked
@drawn_from("a document of a needle test", "needle_document")
def bringers_words(document: Mapping[str, Any]) -> str:
    """How many heads bring it, and what is found without them, in words.

    Examples
    --------
    >>> counts = {"heads": 3, "of": 270, "threshold": 0.1, "half": 1}
    >>> without = {"clean": 0.8, "without": 0.1, "random": 0.78, "worst": 0.7, "matter": True}
    >>> bringers_words({"counts": counts, "without": without})
    '3 of 270 heads look there in a share of 0.10 or more (1 in more than half); without them 10% is found in place of \
80%, without as many others 78% (at least 70%)'
    """
    counts, without = document["counts"], document["without"]
    words = (
        f"{counts['heads']} of {counts['of']} heads look there in a share of {number(counts['threshold'])} or more "
        f"({counts['half']} in more than half)"
    )
    if not counts["heads"]:
        return words
    return (
        f"{words}; without them {percent(without['without'])} is found in place of {percent(without['clean'])}, "
        f"without as many others {percent(without['random'])} (at least {percent(without['worst'])})"
    )
