"""A waterfall in the terminal: each share as a bar on one axis, from where the bar above it ended.

The sign of the number says the same as the color, so that it reads the same in a pipe.
"""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from caseback.reports.document import checked
from caseback.reports.waterfall import Waterfall
from caseback.views.numbers_text import number, signed
from caseback.views.text.bars import ASCII, UNICODE, Glyphs
from caseback.views.text.colors import SIGNED

__all__ = ["print_waterfall", "span_bar", "waterfall_text"]

_LONGEST_NAME = 26


@checked
def print_waterfall(drawn: Waterfall, title: str, console: Console | None = None) -> None:
    """Print a waterfall under its title.

    Parameters
    ----------
    drawn
        The waterfall.
    title
        What the shares are shares of.
    console
        Where to print; by default a new ``rich`` console on standard output, which obeys ``NO_COLOR``.

    Examples
    --------
    ::

        print_waterfall(waterfall(logit_attribution(model, prompt, metric)), "logit difference")
    """
    console = console or Console()
    glyphs = ASCII if console.options.ascii_only else UNICODE
    console.print(Text(glyphs.text(title), style="bold"))
    console.print(waterfall_text(drawn, width=console.width, glyphs=glyphs), highlight=False, markup=False, emoji=False)


@checked
def waterfall_text(drawn: Waterfall, *, width: int = 80, glyphs: Glyphs = UNICODE) -> Table:
    """A waterfall as a rich table: name, bar, share, spread over prompts, running total.

    Parameters
    ----------
    drawn
        The waterfall.
    width
        How many columns there are.
    glyphs
        What to draw with.

    Examples
    --------
    >>> import xarray as xr
    >>> from caseback.reports.waterfall import waterfall
    >>> table = waterfall_text(waterfall(xr.DataArray([3.0, -1.0], dims=["component"])), width=40)
    >>> [cell.plain for cell in table.columns[2]._cells]
    ['+3.00', '−1.00', '']
    """
    table = Table(box=None, padding=(0, 1), pad_edge=True, header_style="dim", show_edge=False)
    names = [_clipped(bar.name, glyphs) for bar in drawn.bars]
    front = max(cell_len(name) for name in (*names, drawn.whole))
    spread = drawn.spread is not None
    across = max(8, min(44, width - front - (36 if spread else 26)))
    titles = [("", "left"), ("", "left"), ("share", "right")]
    titles += [("± sd", "right")] if spread else []
    for text, justify in [*titles, ("total", "right")]:
        table.add_column(Text(glyphs.text(text)), justify="right" if justify == "right" else "left", no_wrap=True)
    extent = drawn.extent
    for name, bar in zip(names, drawn.bars, strict=True):
        cells = [Text(name), span_bar(bar.start, bar.end, extent, across, glyphs, SIGNED[bar.value > 0])]
        cells.append(Text(glyphs.text(signed(bar.value))))
        cells += [] if bar.spread is None else [Text(glyphs.text(number(bar.spread)))]
        table.add_row(*cells, Text(glyphs.text(number(bar.end)), style="dim"))
    last = [Text(drawn.whole, style="bold"), span_bar(0.0, drawn.total, extent, across, glyphs, "bold"), Text("")]
    last += [Text(glyphs.text(number(drawn.spread)))] if drawn.spread is not None else []
    table.add_row(*last, Text(glyphs.text(number(drawn.total)), style="bold"))
    return table


@checked
def span_bar(start: float, end: float, extent: tuple[float, float], width: int, glyphs: Glyphs, style: str) -> Text:
    """A bar from one number to another on an axis of ``width`` cells; at least one cell long.

    Examples
    --------
    >>> span_bar(0.0, 2.0, (-1.0, 3.0), 8, UNICODE, "").plain, span_bar(2.0, 1.0, (-1.0, 3.0), 8, UNICODE, "").plain
    ('  ████  ', '  │ ██  ')
    """
    low, high = extent
    cell = (high - low) / width

    def place(x: float, most: int) -> int:
        return round(min(most, max(0, (x - low) / cell)))  # what is far off the axis is infinitely many cells away

    first = place(min(start, end), width - 1)
    last = max(first + 1, place(max(start, end), width))
    zero = place(0.0, width - 1)
    bar = Text(no_wrap=True)
    for i in range(width):
        if first <= i < last:
            bar.append(glyphs.full, style=style)
        elif i == zero:
            bar.append(glyphs.axis, style="dim")
        else:
            bar.append(" ")
    return bar


def _clipped(name: str, glyphs: Glyphs) -> str:
    text = glyphs.text(name)
    if cell_len(text) <= _LONGEST_NAME:
        return text
    return set_cell_size(text, _LONGEST_NAME - len(glyphs.ellipsis)).rstrip() + glyphs.ellipsis
