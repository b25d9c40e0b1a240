"""Two atlases in the terminal: a line for each kind, and the units that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from caseback.reports.concepts.atlas_comparison import ATLAS_COMPARISON
from caseback.reports.document import Document, checked
from caseback.views.numbers_text import number, signed

__all__ = ["changes_words", "compared_words", "print_atlas_comparison"]

NAMED = 6  # units in a list; the others are counted


@checked
def print_atlas_comparison(document: Document, *, console: Console | None = None) -> None:
    """Print what ``atlas_comparison_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with ATLAS_COMPARISON.drawing(document):
        console.print(compared_words(document), highlight=False, markup=False)
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("kind")
        for name in ("first", "second", "both", "shared", "by chance", "scores agree"):
            table.add_column(name, justify="right")
        for kind in document["kinds"]:
            table.add_row(
                kind["kind"],
                *(f"{size}" for size in kind["sizes"]),
                str(len(kind["shared"])),
                *("" if kind[name] is None else number(kind[name]) for name in ("jaccard", "band")),
                "" if kind["correlation"] is None else signed(kind["correlation"]),
            )
        console.print(table)
        for kind in document["kinds"]:
            for words, units in (("gained", kind["gained"]), ("lost", kind["lost"])):
                if units:
                    console.print(f"{kind['kind']} {words}: {changes_words(units)}", highlight=False, markup=False)


@checked
def compared_words(document: Mapping[str, Any]) -> str:
    """What is compared, in a sentence.

    Examples
    --------
    >>> compared_words({"first": {"model": "a"}, "second": {"model": "b", "tokens": 90}, "only": [["sink"], []]})
    'From a to b (90 tokens). sink was looked for in the first alone.'
    """
    names = []
    for about in (document["first"], document["second"]):
        text = f"{about['tokens']:,} tokens" if about.get("tokens") else ""
        more = "; ".join(filter(None, (text, str(about.get("edits") or ""))))
        names.append(f"{about.get('model', 'a model')}{f' ({more})' if more else ''}")
    words = f"From {names[0]} to {names[1]}."
    for which, only in zip(("first", "second"), document["only"], strict=True):
        if only:
            words += f" {', '.join(only)} {'was' if len(only) == 1 else 'were'} looked for in the {which} alone."
    return words


@checked
def changes_words(units: Sequence[str]) -> str:
    """The first units of a list by name, and how many more there are.

    Examples
    --------
    >>> changes_words(["L0H1", "L0H2"]), changes_words([f"L0N{i}" for i in range(9)])
    ('L0H1, L0H2', 'L0N0, L0N1, L0N2, L0N3, L0N4, L0N5 and 3 more')
    """
    more = f" and {len(units) - NAMED:,} more" if len(units) > NAMED else ""
    return ", ".join(units[:NAMED]) + more
