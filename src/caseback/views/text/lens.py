"""A lens over a prompt in the terminal: one row per layer, the first at the bottom, and one column per token.

In each cell stands what the mode reads. Where heads or neurons were read, each has a row. The row of the embedding is
dim: what it reads is the token that stands there, and no answer.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from caseback.reports.document import checked
from caseback.reports.tables.lens_modes import chosen, modes_of
from caseback.reports.tables.lens_rows import BEFORE_ANY_LAYER, by_unit, rows_of, rows_with_answers
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, percent
from caseback.views.text.bars import ASCII, UNICODE

__all__ = ["print_lens"]

_LONGEST = 12


@checked
def print_lens(
    lens: xr.Dataset, title: str, console: Console | None = None, *, mode: str = "top", batch: int = 0
) -> None:
    """Print a lens over one prompt, in blocks of tokens that fit into a line.

    Parameters
    ----------
    lens
        What ``logit_lens``, ``read_lens``, ``read_attention_lens`` or ``patchscope`` gives, with a dimension ``pos``.
        Heads and neurons get one row each.
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
    layers, answering = rows.labels, rows_with_answers(lens)

    def cell(row: int, column: int) -> str:
        value = float(shown.values[row, column])
        if not np.isfinite(value):
            return ""
        if shown.name == "top":
            return f"{_clipped(visible(str(one['top_text'].values[row, column, 0])))} {percent(value)}"
        return str(int(value)) if shown.ranks else number(value)

    cells = [[glyphs.text(cell(row, column)) for column in columns] for row in range(len(layers))]
    labels = [glyphs.text(f"{one['pos'].values[i]} {_clipped(visible(str(one['token'].values[i])))}") for i in columns]
    widths = [max([cell_len(labels[j]), *(cell_len(line[j]) for line in cells)]) for j in range(len(columns))]
    room = console.width - max(map(cell_len, [*layers, rows.axis])) - 2
    console.print(Text(glyphs.text(f"{title}: {shown.title}, {rows.each}"), style="bold"))
    start = 0
    while start < len(columns):
        stop = start + 1
        while stop < len(columns) and sum(widths[start : stop + 1]) + 2 * (stop + 1 - start) <= room:
            stop += 1
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", show_edge=False)
        table.add_column(Text(rows.axis), no_wrap=True)
        for label in labels[start:stop]:
            table.add_column(Text(label), no_wrap=True, justify="left" if shown.name == "top" else "right")
        for label, line, answers in reversed(list(zip(layers, cells, answering, strict=True))):
            texts = (Text(text) for text in line[start:stop])
            table.add_row(Text(label), *texts, style="" if answers else "dim")
        console.print(table, highlight=False, markup=False)
        start = stop
    if not all(answering):
        note = f"{BEFORE_ANY_LAYER}: the token itself, before any layer has run; no answer yet"
        console.print(Text(glyphs.text(note), style="dim"))


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
