"""What each layer would predict at each position, as a grid with the likeliest token in each cell.

Buttons color the grid by the probability of the likeliest token, by a followed token's rank, by entropy or by the
divergence from the model's prediction. Darker always means surer: a higher probability, or a lower rank, entropy or
divergence (scales in nats end at three times the median; a pointer shows the value). The row of the embedding has no
shade: what it reads is the token that stands there, and no answer. Below the grid, curves follow the tokens' ranks from
layer to layer. Heads and neurons have one row each.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr

from caseback.reports.document import checked
from caseback.reports.tables.lens_modes import Mode, chosen, modes_of
from caseback.reports.tables.lens_rows import Rows, by_unit, rows_of, rows_with_answers
from caseback.reports.tokens_text import visible
from caseback.views.figure.curves import legend, panel
from caseback.views.figure.figure import Figure, of_prompts
from caseback.views.figure.grid import Grid
from caseback.views.figure.shades import image_of, packed_integers, packed_numbers
from caseback.views.figure.svg import clipped, element, text
from caseback.views.numbers_text import number

__all__ = ["lens_grid"]

_LETTERS, _OPAQUE = 9, 0.62


@checked
def lens_grid(lens: xr.Dataset, *, title: str = "", mode: str = "top", batch: int = 0) -> Figure:
    """Draw a lens over one prompt.

    Parameters
    ----------
    lens
        What ``logit_lens``, ``read_lens``, ``read_attention_lens`` or ``patchscope`` gives, with a dimension ``pos``.
        Heads and neurons get one row each, as by ``by_unit``.
    title
        The figure's title; by default none.
    mode
        What is shown first: ``"top"``, ``"rank"``, ``"entropy"``, ``"kl"`` ...; buttons change it.
    batch
        Which prompt.

    Returns
    -------
    Figure
        With one map, which holds the numbers of every mode.

    Raises
    ------
    CasebackError
        For a mode that the result does not have, and as for ``modes_of``.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary import logit_lens
    >>> lens = logit_lens(cb.load("meadow"), "the cat and the dog", targets=" cat")
    >>> lens_grid(lens, mode="rank").modes
    ['rank ␣cat', 'top', 'entropy', 'kl', 'js', 'surprise']
    """
    lens = by_unit(lens)
    modes = modes_of(lens, batch)
    first = chosen(modes, mode)
    modes = [first, *(other for other in modes if other is not first)]
    one = lens.isel(batch=batch)
    columns = [i for i in range(one.sizes["pos"]) if np.isfinite(one["entropy"].values[:, i]).any()]
    places = one["pos"].values[columns].tolist()
    tokens = [f"{place} {visible(str(one['token'].values[i]))}" for place, i in zip(places, columns, strict=True)]
    rows = rows_of(lens)
    grid = Grid(rows.labels, tokens, rows.axis, "position", True, 70.0, 24.0)
    x, y = grid.left + grid.beyond, 40.0
    wide, high = grid.size
    parts = [_strip(x), element("rect", x=x, y=y, width=wide, height=high, class_="ground")]
    answering = np.array(rows_with_answers(lens))
    for i, each in enumerate(modes):
        parts.append(_shades(each, i, grid, columns, answering, x, y))
    parts += [grid.gaps(x, y), *_words(one, columns, grid, x, y)]
    parts += [*grid.row_labels(x, y), *grid.column_labels(x, y + high)]
    shown = [grid.numbers(each.title, each.values[:, columns], "rank" if each.ranks else "") for each in modes]
    cells = grid.for_script(
        x, y, [s for s, each in zip(shown, modes, strict=True) if each.name != "top"], **_likeliest(one, columns)
    )
    height = y + high + grid.below + 8
    if "rank" in one and "vocab" in one["rank"].dims:
        drawn, more = _trajectories(one, columns[-1], tokens[-1], rows, height, max(wide, 360.0) + x)
        parts.append(drawn)
        height += more
    width = max(x + wide + 8, x + 400.0)
    names, caption = [each.name for each in modes], of_prompts(batch, lens.sizes["batch"])
    return Figure("".join(parts), width, height, title, lens, [cells], names, caption, "What would each layer predict?")


def _shades(
    mode: Mode, number_of: int, grid: Grid, columns: list[int], answering: np.ndarray, x: float, y: float
) -> str:
    """A mode's image and scale; the first is shown until the script shows another."""
    values = mode.drawn[:, columns]
    finite = values[answering][np.isfinite(values[answering])]
    most = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    words = mode.title
    if mode.name == "top":
        most = 1.0
    elif not mode.ranks and (positive := finite[finite > 0]).size:
        # the first layers may be so far off that everything else would look the same
        cut = 3 * float(np.median(positive))
        words, most = (f"{words}, cut at {number(cut)}", cut) if cut < most else (words, most)
    # surer is darker: a probability by itself, all else by what it lacks to the largest
    sure = values if mode.name == "top" else most - values
    sure = np.where(answering[:, None] | ~np.isfinite(values), np.clip(sure, 0.0, None), 0.0)
    image = grid.image(x, y, image_of(grid.upper_first(sure), most, opaque=_OPAQUE))
    hidden = {} if number_of == 0 else {"display": "none"}
    ends = ("0", "1") if mode.name == "top" else (f"{round(10**most):,}", "1") if mode.ranks else (number(most), "0")
    at_the_ends = (text(ends[0], x, 23, class_="small soft"), text(ends[1], x + 150, 23, class_="small soft end"))
    return element(
        "g", image, *at_the_ends, text(words, x + 160, 11, class_="small soft"), data_mode=number_of, **hidden
    )


def _strip(x: float) -> str:
    """The shades of every mode's scale, the surest on the right."""
    steps = image_of(np.linspace(0.0, 1.0, 61)[None], 1.0, opaque=_OPAQUE)
    size = {"x": x, "y": 2, "width": 150, "height": 9}
    return element("rect", **size, class_="ground") + element("image", href=steps, **size, preserveAspectRatio="none")


def _words(one: xr.Dataset, columns: list[int], grid: Grid, x: float, y: float) -> list[str]:
    """The likeliest token of each cell, a line of text a row."""
    likeliest = one["top_text"].isel(k=0).values
    parts = []
    for row in range(len(grid.rows)):
        cells = [
            f"<tspan x='{x + grid.wide * (at + 0.5):g}'>{html.escape(_cell(str(likeliest[row, column])))}</tspan>"
            for at, column in enumerate(columns)
            if np.isfinite(one["entropy"].values[row, column])
        ]
        middle = y + grid.high * (len(grid.rows) - row - 0.5) + 4
        parts.append(element("text", *cells, y=middle, class_="mono small mid"))
    return parts


@lru_cache(maxsize=1 << 14)
def _cell(token: str) -> str:
    return clipped(visible(token), _LETTERS)


def _likeliest(one: xr.Dataset, columns: list[int]) -> Mapping[str, Any]:
    """The tokens that a pointer shows, as numbers into a list of all of them, and what a patchscope said."""
    texts, shares = one["top_text"].values[:, columns], one["top_prob"].values[:, columns]
    there = np.isfinite(one["entropy"].values[:, columns])
    names = {name: i for i, name in enumerate(dict.fromkeys(visible(str(t)) for t in texts.ravel().tolist()))}
    index = np.array([names[visible(str(t))] for t in texts.ravel().tolist()], dtype=np.int64).reshape(texts.shape)
    index = np.where(there[..., None], index, -1)
    words = {"list": list(names), "k": texts.shape[-1], "p": packed_numbers(shares)}
    if len(names) > 32767:  # what the script's numbers hold
        return {}
    cells: dict[str, Any] = {"words": words | {"i": packed_integers(index)}}
    if "said" in one:
        cells["notes"] = [f"said: {visible(str(text))}" for text in one["said"].values[:, columns].ravel().tolist()]
    return cells


def _trajectories(one: xr.Dataset, column: int, token: str, rows: Rows, top: float, wide: float) -> tuple[str, float]:
    """The followed tokens' ranks at the last position, and how much room they take."""
    texts = [visible(str(text)) for text in np.atleast_1d(one["vocab_text"].values)]
    ranks = one["rank"].isel(pos=column).transpose("vocab", ...).values
    # two tokens may look the same
    names = [name if texts.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(texts)]
    lines = dict(zip(names, ranks.tolist(), strict=True))
    size = {"x": 58.0, "y": top + 34, "wide": min(wide - 66, 760.0), "high": 160.0}
    title = f"rank {rows.each}, at position {token}"
    drawn = panel(lines, rows.labels, title=title, axis=rows.axis, ranks=True, **size)
    key, high = legend(names, 58.0, top + 34 + 160 + 42, wide - 66)
    return drawn + key, 34 + 160 + 46 + high
