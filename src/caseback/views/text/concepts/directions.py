"""Directions in the terminal: per place how well each way tells held-out texts apart, and how far the ways agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from caseback.reports.concepts.directions import DIRECTIONS
from caseback.reports.document import Document, checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, signed

__all__ = ["print_directions"]

_MOST = 12
"""So many places are compared with each other; of more, evenly spread ones."""


@checked
def print_directions(document: Document, *, console: Console | None = None) -> None:
    """Print what ``directions_report`` gave, the deepest layer first.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with DIRECTIONS.drawing(document):
        ways, split = document["ways"], document["split"]
        names = [place["name"] for place in document["places"]]
        negative, positive = (visible(name) for name in document["classes"])
        console.print(
            Text(
                f"{visible(document['label'])}, from {negative} to {positive}, in {document['model']['name']}, read at "
                f"{document['read']}: AUROC on {split['n_test']} texts that were held out, found on {split['n_train']}"
            )
        )
        aurocs = _table("place", *ways, "shuffled labels", "random")
        for i in reversed(range(len(names))):
            auroc = [f"{document['table'][way]['auroc'][i]:.3f}" for way in ways]
            chance = [f"{document['table'][ways[0]][name][i]:.3f}" for name in ("shuffled", "random")]
            aurocs.add_row(names[i], *auroc, *chance)
        console.print(aurocs)
        chance = number(document["by_chance"])
        if len(ways) > 1:
            console.print(Text(f"Cosines of ways, the median over places; {chance} by chance: written, detecting"))
            both = [np.median(np.asarray(document["agreement"][of], dtype=float), 0) for of in ("write", "detect")]
            console.print(_matrix(ways, *both))
        if len(names) > 1:
            console.print(Text(f"Cosines of places, {ways[0]}, of what is written; {chance} by chance"))
            cosines = np.asarray(document["over_places"]["write"], dtype=float)
            at = np.unique(np.linspace(0, len(names) - 1, min(len(names), _MOST)).round().astype(int))
            console.print(_matrix([names[i] for i in at], cosines[np.ix_(at, at)]))


def _matrix(names: Sequence[str], *of: Any) -> Table:
    """Cosines of things with each other, several beside each other in a cell; the last row is the first thing's."""
    table = _table("", *names)
    for i in reversed(range(len(names))):
        table.add_row(names[i], *(" ".join(signed(float(one[i, j])) for one in of) for j in range(len(names))))
    return table


def _table(first: str, *titles: str) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column(first, no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right")
    return table
