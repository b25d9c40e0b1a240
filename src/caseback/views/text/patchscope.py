"""A patchscope in the terminal: one line for each place, what is read there and what is said of it."""

from __future__ import annotations

import xarray as xr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, percent

__all__ = ["print_patchscope"]


@checked
def print_patchscope(result: xr.Dataset, console: Console | None = None) -> None:
    """Print what ``patchscope`` gave for its first prompt.

    Parameters
    ----------
    result
        By layer and position; with ``surprisal`` where an answer was asked for.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", show_edge=False)
    asked = "surprisal" in result
    for name in ("after", "token", "says", "p", *(["answer", "surprisal"] if asked else []), "said"):
        table.add_column(Text(name), overflow="fold")
    one = result.isel(batch=0)
    for j in range(one.sizes["pos"]):
        for i, layer in enumerate(one["layer"].values.tolist()):
            at = one.isel(layer=i, pos=j)
            line = [str(layer), f"{one['pos'].values[j]} {visible(str(at['token'].item()))}"]
            line += [visible(str(at["top_text"].values[0])), percent(float(at["top_prob"][0]))]
            if asked:
                line += [visible(str(at["answer"].item())), number(float(at["surprisal"]))]
            table.add_row(*(Text(x) for x in [*line, visible(str(at["said"].item())) if "said" in at else ""]))
    console = console or Console()
    console.print(table, highlight=False, markup=False)
    if asked:
        share = percent(float(result["hit"].mean()))
        console.print(f"the answer is said first in {share} of the places", highlight=False, markup=False)
