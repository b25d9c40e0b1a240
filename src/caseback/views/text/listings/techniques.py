"""Techniques in the terminal: the table of all, and methods by the names that a command calls them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from caseback.reports.document import checked, drawn_from

__all__ = ["print_methods", "print_techniques"]

_FEW = 3  # of so many an example is shown


@checked
@drawn_from("a row of techniques", "technique_rows")
def print_techniques(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Print the rows of ``technique_rows``: entry and name, what it does and what it costs; of a few, examples too."""
    # a pipe has no width of its own, and whoever looks through it wants whole lines
    console = console or Console(width=None if sys.stdout.isatty() else 220)
    if not rows:
        console.print("No technique has these words: `caseback techniques` lists all.", highlight=False)
    for row in rows:
        # Text, since a cost such as "[steps] x forward" is not markup
        console.print(Text.assemble((f"{', '.join(row['entry']):<8} ", "dim"), (row["name"], "bold")))
        about = [Text(f"{row['summary']} ({row['citation']})"), Text(f"costs {row['cost']}", "dim")]
        if len(rows) <= _FEW:
            about += [Text(line, "dim") for line in ["", *row["example"].splitlines(), ""]]
        for text in about:
            console.print(Padding.indent(text, 9), highlight=False)
    if len(rows) > _FEW:
        console.print(Text(f"{len(rows)} techniques; of {_FEW} or fewer there are examples: add words.", "dim"))


@checked
@drawn_from("a row of methods", "technique_row")
def print_methods(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one line for each method: its entry, its name, what it does.

    Examples
    --------
    >>> print_methods([{"name": "occlusion", "entry": ["3.1.7"], "summary": "Leave each token out."}])
    3.1.7    occlusion  Leave each token out.
    """
    wide = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        print(f"{', '.join(row['entry']):<8} {row['name']:<{wide}}  {row['summary']}")
