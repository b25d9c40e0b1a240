"""Training examples with their scores in a terminal: a table, the strongest first."""

from __future__ import annotations

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import percent, signed
from caseback.views.text.bars import ASCII, UNICODE, Glyphs, signed_bar
from caseback.views.text.colors import SIGNED

__all__ = ["examples_text", "print_examples", "print_scored"]

_HALF = 6


@checked
def print_scored(scores: xr.DataArray, top: xr.Dataset, title: str, console: Console | None = None) -> None:
    """Print the strongest examples, and below them what was included and what became of lines that did not fit.

    Parameters
    ----------
    scores
        Of all examples, as a training-data attribution gives them.
    top, title, console
        As for ``print_examples``.
    """
    console = console or Console()
    print_examples(top, title, console)
    for line in _what_counted(scores):
        console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)


@checked
def print_examples(top: xr.Dataset, title: str, console: Console | None = None) -> None:
    """Print the strongest examples per query, under a title.

    Parameters
    ----------
    top
        As ``caseback.localize.inputs.top_examples`` gives it.
    title
        What the scores are.
    console
        Where to print; by default a new ``rich`` console on standard output, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    glyphs = ASCII if console.options.ascii_only else UNICODE
    for row in range(top.sizes["query"]):
        text = f"{title}: {_shown(str(top.query_text.values[row]))}"
        console.print(Text(glyphs.text(text), style="bold"), soft_wrap=True)
        console.print(examples_text(top.isel(query=row), glyphs=glyphs), highlight=False, markup=False, emoji=False)


@checked
def examples_text(top: xr.Dataset, *, glyphs: Glyphs = UNICODE) -> Table:
    """One query's examples as a rich table: score, bar, line of the corpus, text.

    Examples
    --------
    >>> coords = {"line": ("rank", [3]), "piece": ("rank", [0]), "text": ("rank", ["the cat"])}
    >>> table = examples_text(xr.Dataset({"score": ("rank", [2.0])}, coords=coords))
    >>> [column._cells[0].plain for column in table.columns]
    ['+2.00', '      │██████', '4', 'the cat']
    """
    table = Table(box=None, padding=(0, 1), pad_edge=True, header_style="dim", show_edge=False)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("line", justify="right", no_wrap=True)
    table.add_column("text", overflow="fold")
    largest = float(np.abs(top.score.values).max()) or 1.0
    for score, line, piece, text in zip(
        top.score.values, top.line.values, top.piece.values, top.text.values, strict=True
    ):
        place = f"{line + 1}" if not piece else f"{line + 1}, part {piece + 1}"
        table.add_row(
            Text(glyphs.text(signed(float(score)))),
            signed_bar(float(score) / largest, _HALF, glyphs, SIGNED),
            Text(glyphs.text(place)),
            Text(glyphs.text(_shown(str(text)))),
        )
    return table


def _shown(text: str) -> str:
    """Text with its spaces as they are, and all other invisible characters as marks."""
    return visible(text).replace("␣", " ")


def _what_counted(scores: xr.DataArray) -> list[str]:
    attrs, lines = scores.attrs, []
    if "share_of_parameters" in attrs:
        share = percent(min(1.0, attrs["share_of_parameters"]))
        lines.append(f"gradients of {attrs['parts']}: {int(attrs['parameters']):,} parameters, {share} of the model's")
    if attrs.get("rank") is not None:
        share = percent(min(1.0, attrs["curvature_kept"]))
        lines.append(f"{attrs['rank']} directions kept on each side of a matrix: {share} of the curvature's trace")
    if attrs["split_lines"]:
        lines.append(f"{attrs['split_lines']} lines past the context were split into {attrs['split_into']} parts")
    if attrs["lines_left_out"]:
        lines.append(f"{attrs['lines_left_out']} lines of fewer than 2 tokens were left out")
    return lines
