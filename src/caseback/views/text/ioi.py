"""The heads of indirect object identification in the terminal, one line for each order of mention.

The heads of the largest effect come first, whether it works for IO in both orders or only in one: a mean over both
would put a head that moves the first name among those that do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from caseback.reports.document import checked, drawn_from
from caseback.views.numbers_text import percent, signed

__all__ = ["print_ioi"]

_LOOKS = {
    "end_to_io": "end→IO",
    "end_to_s1": "end→S1",
    "end_to_s2": "end→S2",
    "s2_to_s1": "S2→S1",
    "s2_to_s1_next": "S2→S1+1",
    "s1_next_to_s1": "S1+1→S1",
}
_LEAST_LOOK = 0.1
_ORDERS = {"ABBA": "IO first", "BABA": "S first"}


@checked
@drawn_from("a table of heads", "ioi_table")
def print_ioi(table: Mapping[str, Any], *, every: bool = False, console: Console | None = None) -> None:
    """Print what ``ioi_table`` gave.

    Parameters
    ----------
    table
        Heads, and the metric's means.
    every
        Show heads without a role too.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    orders = table["orders"]
    console.print(
        f"{table['model']}: logit difference of IO over S {signed(table['clean'])}, "
        f"corrupt {signed(table['corrupt'])}, {table['prompts']} prompts; mean effects on it, and mean attention",
        highlight=False,
    )
    counts = ", ".join(f"{_ORDERS[order]} in {of['prompts']} ({order})" for order, of in orders.items())
    console.print(f"apart by who is said first: {counts}", highlight=False)
    shown = [head for head in table["heads"] if head["role"] or every]
    if not shown:
        console.print("no head has a role: its attention or its effect is too small (--all lists them)")
        return
    drawn = Table(box=None, padding=(0, 1), header_style="dim")
    drawn.add_column("head", no_wrap=True)
    drawn.add_column("role", no_wrap=True)
    drawn.add_column("order", no_wrap=True)
    for title in ("direct", "total", "via movers"):
        drawn.add_column(title, justify="right", no_wrap=True)
    drawn.add_column("looks")
    for head in sorted(shown, key=_size, reverse=True):
        for i, (order, of) in enumerate(head["by_order"].items()):
            effects = (signed(of[key]) for key in ("direct", "total", "through_name_movers"))
            looks = [f"{_LOOKS[key]} {percent(of[key])}" for key in _LOOKS if of[key] > _LEAST_LOOK]
            names = ("", "") if i else (head["head"], head["role"])
            drawn.add_row(*names, order, *effects, ", ".join(looks))
    console.print(drawn)


def _size(head: Mapping[str, Any]) -> float:
    """A head's total effect without its sign, the mean over the orders."""
    totals = [abs(of["total"]) for of in head["by_order"].values()]
    return sum(totals) / len(totals)
