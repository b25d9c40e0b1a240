"""A lens over a prompt in the terminal: one row per token, one column per layer, in each cell what the mode reads.

Where heads or neurons were read, each has a column.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from caseback.reports.lens_modes import chosen, modes_of
from caseback.reports.lens_rows import by_unit, rows_of
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, percent
from caseback.views.text.bars import ASCII, UNICODE

__all__ = ["print_lens"]

_LONGEST = 12


def print_lens(
    lens: xr.Dataset, title: str, console: Console | None = None, *, mode: str = "top", batch: int = 0
) -> None:
    """Print a lens over one prompt, in blocks of layers that fit into a line.

    Parameters
    ----------
    lens
        What ``logit_lens``, ``read_lens``, ``read_attention_lens`` or ``patchscope`` gives, with a dimension ``pos``.
        Heads and neurons get one column each.
    title
        What the lens is called.
    console
        Where to print; by default a new ``rich`` console on standard output.
    mode
        As for ``lens_grid``; ``"top"`` shows the likeliest token with its probability.
    batch
        Which prompt.

    Raises
    ------
    CasebackError
        As for ``lens_grid``.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary import logit_lens
    >>> lens = logit_lens(cb.load("meadow"), "the cat", k=1)
    >>> print_lens(lens, "logit lens", Console(width=30, no_color=True), mode="entropy")
    logit lens...
    """
    console = console or Console()
    glyphs = ASCII if console.options.ascii_only else UNICODE
    lens = by_unit(lens)
    shown = chosen(modes_of(lens, batch), mode)
    one = lens.isel(batch=batch)
    columns = [i for i in range(one.sizes["pos"]) if np.isfinite(one["entropy"].values[:, i]).any()]
    rows = rows_of(lens)
    layers = rows.labels

    def cell(row: int, column: int) -> str:
        value = float(shown.values[row, column])
        if not np.isfinite(value):
            return ""
        if shown.name == "top":
            return f"{_clipped(visible(str(one['top_text'].values[row, column, 0])))} {percent(value)}"
        return str(int(value)) if shown.ranks else number(value)

    cells = [[glyphs.text(cell(row, column)) for row in range(len(layers))] for column in columns]
    labels = [glyphs.text(f"{i} {_clipped(visible(str(one['token'].values[i])))}") for i in columns]
    widths = [max([cell_len(layers[j]), *(cell_len(line[j]) for line in cells)]) for j in range(len(layers))]
    room = console.width - max(map(cell_len, [*labels, "token"])) - 2
    console.print(Text(glyphs.text(f"{title}: {shown.title}, {rows.each}"), style="bold"))
    start = 0
    while start < len(layers):
        stop = start + 1
        while stop < len(layers) and sum(widths[start : stop + 1]) + 2 * (stop + 1 - start) <= room:
            stop += 1
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", show_edge=False)
        table.add_column(Text("token"), no_wrap=True)
        for layer in layers[start:stop]:
            table.add_column(Text(layer), no_wrap=True, justify="left" if shown.name == "top" else "right")
        for label, line in zip(labels, cells, strict=True):
            table.add_row(Text(label), *(Text(text) for text in line[start:stop]))
        console.print(table, highlight=False, markup=False)
        start = stop


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
