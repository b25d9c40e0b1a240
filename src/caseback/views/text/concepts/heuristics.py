"""A bag of heuristics in the terminal: rules with matched neurons, and sums without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from caseback.reports.concepts.heuristics import HEURISTICS
from caseback.reports.document import Document, checked, drawn_from
from caseback.views.numbers_text import number, percent

__all__ = ["print_heuristics", "rules_words", "sums_words"]

LISTED = 12


@checked
def print_heuristics(document: Document, *, console: Console | None = None) -> None:
    """Print what ``heuristics_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with HEURISTICS.drawing(document):
        say = lambda words: console.print(words, highlight=False, markup=False)  # noqa: E731
        say(f"{document['model']['name']}: {sums_words(document)}")
        say(rules_words(document))
        rules = Table(title="rules with matched neurons", title_justify="left")
        for column in ("rule", "neurons", "score", "held out"):
            rules.add_column(column, justify="left" if column == "rule" else "right")
        for row in document["rules"][:LISTED]:
            rules.add_row(row["rule"], str(row["matched"]), number(row["score"]), number(row["held_out"]))
        console.print(rules)
        if (more := len(document["rules"]) - LISTED) > 0:
            say(f"and {more} more; --json has them all")
        judged = Table(title="right without a rule's neurons", title_justify="left")
        for column in ("rule", "where it holds", "where not", "without others", "at least"):
            judged.add_column(column, justify="left" if column == "rule" else "right")
        for row in document["judged"]:
            on, off = row["satisfied"], row["others"]
            judged.add_row(row["rule"], *map(percent, (on["without"], off["without"], on["random"], row["worst"])))
        console.print(judged)


@checked
@drawn_from("a document of heuristics", "heuristics_document")
def sums_words(document: Mapping[str, Any]) -> str:
    """How many sums are answered, in words, and what of an answer is asked for.

    Examples
    --------
    >>> sums_words({"counts": {"answered": 400, "pairs": 400, "cut": 0.0, "shared_tokens": 0}})
    'answers 400 of 400 sums'
    """
    counts = document["counts"]
    words = f"answers {counts['answered']} of {counts['pairs']} sums"
    if not counts["cut"]:
        return words
    return f"{words}, of which the tokenizer cuts {percent(counts['cut'])}: the first token that differs is asked for"


@checked
@drawn_from("a document of heuristics", "heuristics_document")
def rules_words(document: Mapping[str, Any]) -> str:
    """How many neurons match a rule, in words, beside chance.

    Examples
    --------
    >>> counts = {"neurons": 800, "with_a_rule": 712, "tried": 263, "matches": 2844, "by_chance": 9.6}
    >>> rules_words({"counts": counts})
    '712 of 800 important neurons follow one of 263 rules or more, 2844 matches in all, permuted maps 10'
    """
    counts = document["counts"]
    return (
        f"{counts['with_a_rule']} of {counts['neurons']} important neurons follow one of {counts['tried']} rules or "
        f"more, {counts['matches']} matches in all, permuted maps {counts['by_chance']:.0f}"
    )
