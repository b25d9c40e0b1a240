"""A map in the terminal: a sign and a digit per cell, in tenths of the largest number.

    +9 is 0.85 of the largest or more, −3 is -0.25 to -0.35 of it, · is less than a twentieth

Color says the same as the sign. A map too wide for the line is cut into blocks of columns; one whose columns are tokens
is turned, so that tokens are rows and layers are columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from caseback.reports.maps import Map
from caseback.views.numbers_text import signed
from caseback.views.text.bars import ASCII, UNICODE, Glyphs, signed_bar

__all__ = ["map_text", "print_map", "ranked_text"]

STYLES = ("#4f8fd6", "#c8741f")
"""The styles of a negative and a positive number, as in the other views."""
_LONGEST_LABEL = 22


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


def map_text(drawn: Map, *, width: int = 80, glyphs: Glyphs = UNICODE) -> list[RenderableType]:
    """A map as rich renderables: its blocks of columns, then its scale.

    Parameters
    ----------
    drawn
        The map; it is turned if its columns are tokens.
    width
        How many columns there are.
    glyphs
        What to draw with.

    Examples
    --------
    >>> from caseback.reports.maps import Axis
    >>> numbers = np.array([[1.0, -0.31], [0.0, np.nan]])
    >>> table, scale = map_text(Map(Axis("layer", ["0", "1"]), Axis("head", ["0", "1"]), numbers, None, 1))
    >>> [cell.plain for column in table.columns[1:] for cell in column._cells]
    ['+9', '·', '−3', '']
    """
    if drawn.columns.name in ("pos", "query", "key"):
        drawn = drawn.turned()
    named = [_clipped(label, glyphs) for label in drawn.rows.labels]
    front = max((cell_len(label) for label in (*named, drawn.rows.name)), default=0)
    cell = max(2, *(cell_len(glyphs.text(label)) for label in drawn.columns.labels))
    per = max(1, (width - front - 2) // (cell + 1))
    parts: list[RenderableType] = []
    for start in range(0, len(drawn.columns.labels), per):
        table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False, header_style="dim", show_edge=False)
        table.add_column(Text(glyphs.text(drawn.rows.name)), justify="left", no_wrap=True)
        for label in drawn.columns.labels[start : start + per]:
            table.add_column(Text(glyphs.text(label)), justify="right", no_wrap=True, min_width=2)
        for label, row in zip(named, drawn.values[:, start : start + per], strict=True):
            table.add_row(Text(label), *(_cell(value, drawn.largest, glyphs) for value in row.tolist()))
        parts.append(table)
    parts.append(Text(glyphs.text(_scale(drawn)), style="dim"))
    return parts


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
            signed_bar(value / drawn.largest, half, glyphs, STYLES),
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


def _cell(value: float, largest: float, glyphs: Glyphs) -> Text:
    if not np.isfinite(value):
        return Text("")
    share = value / largest
    tenths = min(9, round(10 * abs(share)))
    if abs(share) < 0.05 or not tenths:
        return Text(glyphs.text("·"), style="dim")
    style = STYLES[share > 0] if tenths >= 3 else ""
    return Text(glyphs.text(f"{'+' if share > 0 else '−'}{tenths}"), style=f"bold {style}" if tenths >= 7 else style)


def _scale(drawn: Map) -> str:
    over = f"; means over {drawn.n} prompts" if drawn.n > 1 else ""
    return f"in tenths of the largest, {signed(drawn.largest).lstrip('+')}; · below a twentieth{over}"


def _clipped(label: str, glyphs: Glyphs) -> str:
    text = glyphs.text(label)
    if cell_len(text) <= _LONGEST_LABEL:
        return text
    return set_cell_size(text, _LONGEST_LABEL - len(glyphs.ellipsis)).rstrip() + glyphs.ellipsis
