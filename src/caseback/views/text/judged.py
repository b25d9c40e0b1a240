"""How often each method puts a known source first, in the terminal: methods by organisms."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from caseback.reports.document import checked
from caseback.views.text.bars import ASCII, UNICODE, Glyphs

__all__ = ["judged_text", "print_judged"]


@checked
def print_judged(result: xr.Dataset, console: Console | None = None) -> None:
    """Print the result of ``known_source_test``, by default on a new ``rich`` console."""
    console = console or Console()
    for part in judged_text(result, ascii_only=console.options.ascii_only):
        console.print(part, highlight=False, markup=False)


@checked
def judged_text(result: xr.Dataset, *, ascii_only: bool = False) -> list[RenderableType]:
    """The result of ``known_source_test`` as rich renderables.

    Examples
    --------
    >>> first = xr.DataArray([[1.0, 0.5]], coords={"attribution": ["a"], "variant": ["recall", "shortcut"]})
    >>> _, table, _ = judged_text(xr.Dataset({"first": first, "precision": first}, attrs={"n": 2}))
    >>> [cell.plain for column in table.columns for cell in column._cells]
    ['a', '100%', '50%', '75%', '75%']
    """
    glyphs = ASCII if ascii_only else UNICODE
    title = Text("Share of prompts on which a true source has the highest score", style="bold")
    table = Table(box=None, padding=(0, 1), pad_edge=True, header_style="dim", show_edge=False)
    table.add_column("", no_wrap=True)
    for name in result["variant"].values:
        table.add_column(Text(str(name)), justify="right", no_wrap=True)
    table.add_column("all", justify="right", no_wrap=True)
    table.add_column("of the top, sources", justify="right", no_wrap=True)
    for i, name in enumerate(result["attribution"].values):
        row, precision = result["first"].values[i], result["precision"].values[i]
        table.add_row(Text(str(name)), *(_share(x, glyphs) for x in row), _mean(row, glyphs), _mean(precision, glyphs))
    parts: list[RenderableType] = [title, table]
    for name, reasons in json.loads(result.attrs.get("refused", "{}")).items():
        for organism, why in reasons.items():
            parts.append(Text(glyphs.text(f" {name} refuses {organism}: {why}"), style="dim"))
    note = f"{result.attrs['n']} prompts each; a tie is a miss. Last column: as many tokens as there are sources"
    return [*parts, Text(glyphs.text(f" {note}"), style="dim")]


def _share(value: float, glyphs: Glyphs) -> Text:
    if not np.isfinite(value):
        return Text(glyphs.text("refused"), style="dim")
    text = "100%" if value == 1 else f"{min(100 * value, 99.9):.0f}%" if value < 0.995 else "99%"
    return Text(text, style="green" if value == 1 else "")


def _mean(row: np.ndarray, glyphs: Glyphs) -> Text:
    there = row[np.isfinite(row)]
    return _share(float(there.mean()) if there.size else np.nan, glyphs)
