"""Techniques in the terminal: the table of all, and methods by the names that a command calls them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from caseback.reports.document import checked, drawn_from

__all__ = ["print_methods", "print_techniques"]


@checked
@drawn_from("a row of techniques", "technique_rows")
def print_techniques(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Print the rows of ``technique_rows`` as a table."""
    table = Table(title=f"Techniques: {len(rows)}", title_justify="left")
    table.add_column("entry", no_wrap=True)
    for column in ("technique", "role", "summary", "cost", "citation"):
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = ", ".join(row["entry"]), row["name"], row["role"], row["summary"], row["cost"], row["citation"]
        # Text, since a cost such as "[steps] x forward" is not markup
        table.add_row(*map(Text, cells))
    # a pipe has no width of its own, and 80 columns would fold every cell
    (console or Console(width=None if sys.stdout.isatty() else 220)).print(table)


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
