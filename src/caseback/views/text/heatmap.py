"""A map in the terminal: its numbers, each with its sign, all with the same digits after the point.

Color says the same as the sign, and is stronger from three tenths of the largest number on. Layers are rows and run
upwards, the first one at the bottom. A map too wide for the line is cut into blocks of columns; one whose columns are
tokens, and whose rows are no layers, is turned, so that tokens are rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from caseback.reports.document import checked
from caseback.reports.maps import Map, of_layers
from caseback.views.numbers_text import signed
from caseback.views.text.bars import ASCII, UNICODE, Glyphs, signed_bar
from caseback.views.text.colors import SIGNED

__all__ = ["map_text", "print_map", "ranked_text"]

_LONGEST_LABEL = 22
_WIDEST_TITLE = 9
_COLORED, _STRONG = 0.3, 0.7  # of the largest number


@checked
def print_map(drawn: Map, title: str, console: Console | None = None, *, top: int = 0) -> None:
    """Print a map under its title, with its scale, and the largest numbers as a list below it.

    Parameters
    ----------
    drawn
        The map.
    title
        What the numbers are.
    console
        Where to print; by default a new ``rich`` console on standard output, which obeys ``NO_COLOR``.
    top
        How many of the largest numbers to list with their values.

    Examples
    --------
    ::

        print_map(as_map(patched.recovery), "recovery")
    """
    console = console or Console()
    glyphs = ASCII if console.options.ascii_only else UNICODE
    console.print(Text(glyphs.text(title), style="bold"))
    for part in map_text(drawn, width=console.width, glyphs=glyphs):
        console.print(part, highlight=False, markup=False, emoji=False)
    if top:
        console.print(Text(""))
        console.print(ranked_text(drawn, top, width=console.width, glyphs=glyphs), highlight=False, markup=False)


@checked
def map_text(
    drawn: Map, *, width: int = 80, glyphs: Glyphs = UNICODE, own_scales: bool = False
) -> list[RenderableType]:
    """A map as rich renderables: its blocks of columns, then what its marks say.

    Parameters
    ----------
    drawn
        The map.
    width
        How many columns there are.
    glyphs
        What to draw with.
    own_scales
        Color each column by its own largest number, where columns are of different kinds.

    Examples
    --------
    >>> from caseback.reports.maps import Axis
    >>> numbers = np.array([[1.0, -0.31], [0.0, np.nan]])
    >>> table, scale = map_text(Map(Axis("layer", ["0", "1"]), Axis("head", ["0", "1"]), numbers, None, 1))
    >>> [cell.plain for column in table.columns[1:] for cell in column._cells]
    ['0', '+1.00', '', '−0.31']
    """
    layered = of_layers(drawn.rows)
    if drawn.columns.name in ("pos", "query", "key") and not layered:
        drawn = drawn.turned()
    decimals = _decimals(drawn)
    largest = np.full(len(drawn.columns.labels), drawn.largest)
    if own_scales:
        of_each = np.nanmax(np.abs(drawn.values), axis=0, initial=0.0)
        largest = np.where(of_each > 0, of_each, 1.0)
    cells = [
        [_cell(value, most, decimals, glyphs) for value, most in zip(row, largest, strict=True)]
        for row in drawn.values.tolist()
    ]
    named = [_clipped(label, glyphs) for label in drawn.rows.labels]
    titles = [_clipped(label, glyphs) for label in drawn.columns.labels]
    front = max((cell_len(label) for label in (*named, drawn.rows.name)), default=0)
    # a number's width, and a short token's: longer ones are folded
    cell = max([2, *(cell_len(text.plain) for row in cells for text in row)])
    cell = max(cell, min(_WIDEST_TITLE, max(map(cell_len, titles), default=0)))
    rows = list(zip(named, cells, strict=True))
    per = max(1, (width - front - 2) // (cell + 1))
    parts: list[RenderableType] = []
    for start in range(0, len(drawn.columns.labels), per):
        table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False, header_style="dim", show_edge=False)
        table.add_column(Text(glyphs.text(drawn.rows.name)), justify="left", no_wrap=True)
        for title in titles[start : start + per]:
            table.add_column(Text(title), justify="right", overflow="fold", min_width=cell, max_width=cell)
        for label, row in rows[::-1] if layered else rows:
            table.add_row(Text(label), *row[start : start + per])
        parts.append(table)
    parts.append(Text(glyphs.text(_marks(drawn, decimals)), style="dim"))
    return parts


@checked
def ranked_text(drawn: Map, most: int, *, width: int = 80, glyphs: Glyphs = UNICODE) -> Table:
    """The cells with the largest absolute values, largest first, with their values and bars.

    Examples
    --------
    >>> from caseback.reports.maps import Axis
    >>> numbers = np.array([[1.0, -3.0]])
    >>> table = ranked_text(Map(Axis("layer", ["0"]), Axis("head", ["0", "1"]), numbers, None, 1), 1)
    >>> table.columns[0]._cells[0].plain, table.columns[2]._cells[0].plain
    ('layer 0, head 1', '−3.00')
    """
    table = Table(box=None, padding=(0, 1), pad_edge=True, header_style="dim", show_edge=False)
    half = max(3, min(14, (width - 54) // 2))
    table.add_column(Text("largest"), no_wrap=True, overflow="ellipsis")
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    if drawn.spread is not None:
        table.add_column(Text(glyphs.text("± sd")), justify="right", no_wrap=True)
    for row, column in _largest(drawn.values, most):
        value = float(drawn.values[row, column])
        cells: list[RenderableType] = [
            Text(glyphs.text(_place(drawn, row, column))),
            signed_bar(value / drawn.largest, half, glyphs, SIGNED),
            Text(glyphs.text(signed(value))),
        ]
        if drawn.spread is not None:
            cells.append(Text(glyphs.text(f"± {signed(float(drawn.spread[row, column])).lstrip('+')}")))
        table.add_row(*cells)
    return table


def _largest(values: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    sizes = np.where(np.isfinite(values), np.abs(values), -1.0)
    for flat in np.argsort(-sizes, axis=None, kind="stable")[:most]:
        row, column = np.unravel_index(flat, values.shape)
        if sizes[row, column] >= 0:
            yield int(row), int(column)


def _place(drawn: Map, row: int, column: int) -> str:
    sides: Sequence[tuple[str, str]] = (
        (drawn.rows.name, drawn.rows.labels[row]),
        (drawn.columns.name, drawn.columns.labels[column]),
    )
    return ", ".join(
        label if name == "component" or "·" in name else f"{name} {label}" for name, label in sides if name
    )


def _decimals(drawn: Map) -> int:
    """Digits after the point: the largest number has three that count, and never more than two of them there."""
    return (
        max(0, min(2, 2 - math.floor(math.log10(drawn.largest))))
        if drawn.largest >= 0.1
        else (1 - math.floor(math.log10(drawn.largest)))
    )


def _cell(value: float, largest: float, decimals: int, glyphs: Glyphs) -> Text:
    if not np.isfinite(value):
        return Text("")
    text = f"{value:+.{decimals}f}".replace("-", "−")
    if not value:
        return Text("0", style="dim")
    if not text.strip("+−0."):
        return Text(glyphs.text("·"), style="dim")
    share = abs(value) / largest
    style = SIGNED[value > 0] if share >= _COLORED else ""
    return Text(glyphs.text(text), style=f"bold {style}" if share >= _STRONG else style)


def _marks(drawn: Map, decimals: int) -> str:
    over = f"; means over {drawn.n} prompts" if drawn.n > 1 else ""
    return f"· rounds to {0:.{decimals}f}{over}"


def _clipped(label: str, glyphs: Glyphs) -> str:
    text = glyphs.text(label)
    if cell_len(text) <= _LONGEST_LABEL:
        return text
    return set_cell_size(text, _LONGEST_LABEL - len(glyphs.ellipsis)).rstrip() + glyphs.ellipsis
