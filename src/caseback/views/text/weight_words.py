"""Weights as words in a terminal: units with the tokens at both ends, pairs of tokens, singular vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, signed

__all__ = ["print_weights"]


@checked
def print_weights(
    result: xr.Dataset | Mapping[str, xr.Dataset], *, top: int = 10, console: Console | None = None
) -> None:
    """Print weights as words, as a table.

    Parameters
    ----------
    result
        What ``weights_as_words``, ``circuit_pairs``, ``weight_svd_words`` or ``units_of_word`` gave; or by matrix that
        of one neuron, as ``neuron_words`` gives it.
    top
        How many directions of a matrix are shown.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    if not isinstance(result, xr.Dataset):
        first = next(iter(result.values()))
        console.print(
            units_table(f"Neuron {first['neuron'].item()} of layer {first.attrs['layer']}", list(result.items()))
        )
        return
    if "word" in result.attrs:
        rows = [(str(path), result.sel(path=path)) for path in result["path"].values]
        console.print(units_table(f"Units of {visible(str(result.attrs['word']))}", rows))
        return
    matrix, head = result.attrs["matrix"], result.attrs.get("head")
    where = f"layer {result.attrs['layer']}" if head is None else f"L{result.attrs['layer']}H{head}"
    if "rank" in result.dims:
        console.print(singular_table(f"Singular vectors of {matrix}, {where}", result))
    elif "top_from_id" in result:
        console.print(pairs_table(f"{matrix.upper()} of {where}", result))
        copying = f"own token largest in {100 * result.attrs['copying']:.1f}% of rows"
        own, over_all = result.attrs["own_mean"], result.attrs["mean"]
        console.print(f"{copying}; mean {own:+.3g} with itself, {over_all:+.3g} over all")
    else:
        unit = str(result["top_id"].dims[0])
        shown = min(top, result.sizes[unit])
        console.print(
            units_table(
                f"Directions of {matrix}, {where}", [(f"{matrix} {i}", result.isel({unit: i})) for i in range(shown)]
            )
        )


def units_table(title: str, rows: Sequence[tuple[str, xr.Dataset]]) -> Table:
    """One row per unit: its name, and the tokens at both ends of a result whose only dimension is ``k``."""
    table = _table(title, "", "largest", "smallest")
    for name, words in rows:
        table.add_row(Text(name), *(_tokens(words, end, values=True) for end in ("top", "bottom")))
    return table


def pairs_table(title: str, pairs: xr.Dataset) -> Table:
    """The pairs of tokens at both ends of a circuit, side by side."""
    table = _table(title, "largest", "from", "to", "smallest", "from", "to")
    for i in range(pairs.sizes["k"]):
        cells = []
        for end in ("top", "bottom"):
            cells.append(Text(signed(float(pairs[f"{end}_value"][i])), style="bold"))
            cells += [Text(visible(str(pairs[f"{end}_{side}_text"][i].item()))) for side in ("from", "to")]
        table.add_row(*cells)
    return table


def singular_table(title: str, words: xr.Dataset) -> Table:
    """One row per singular vector: its value, its share, and the tokens or units on its two sides."""
    table = _table(title, "", "value", "share", "reads, or asks", "writes, or is asked for")
    for i in range(words.sizes["rank"]):
        here = words.isel(rank=i)
        cells = [number(float(here["value"])), f"{100 * float(here['share']):.1f}%"]
        table.add_row(Text(str(i)), *map(Text, cells), *(_side(here, side) for side in ("left", "right")))
    return table


def _side(words: xr.Dataset, side: str) -> Text:
    text = Text()
    for end, mark in (("top", "+ "), ("bottom", "\n- ")):
        text.append(mark, style="dim").append(_tokens(words, f"{side}_{end}", values=False))
    return text


def _tokens(words: xr.Dataset, end: str, *, values: bool) -> Text:
    """Tokens, or numbers of units, one after another."""
    worded = f"{end}_text" in words
    entries = words[f"{end}_text"] if worded else words[f"{end}_unit"]
    text = Text()
    for i, one in enumerate(entries.values.tolist()):
        text.append("  " if i else "").append(visible(one) if worded else one if isinstance(one, str) else f"#{one}")
        if values:
            text.append(f" {signed(float(words[f'{end}_value'][i]))}", style="dim")
    return text


def _table(title: str, *columns: str) -> Any:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
