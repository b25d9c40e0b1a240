"""Attention of a layer: every head as a thumbnail, one of them large; a score by the dimensions of query and key."""

from __future__ import annotations

import math

import numpy as np

from caseback.errors import OutOfRange
from caseback.reports.document import checked
from caseback.reports.figures.attention_maps import attention_of_layer, score_by_dimension
from caseback.reports.tokens_text import visible
from caseback.views.figure.figure import Figure, of_prompts
from caseback.views.figure.grid import Grid, scale_bar
from caseback.views.figure.shades import image_of
from caseback.views.figure.svg import element, line, rect, text
from caseback.views.numbers_text import number, signed

__all__ = ["attention"]

_THUMBNAIL, _APART, _ROOM = 56.0, 10.0, 520.0


@checked
def attention(
    run: object,
    layer: int,
    head: int = 0,
    *,
    batch: int = 0,
    query: int | None = None,
    key: int | None = None,
    title: str = "",
) -> Figure:
    """Draw the attention of a layer's heads on one prompt; a click on a thumbnail makes it the large one.

    Parameters
    ----------
    run
        A run that read the site ``pattern``; with ``query`` and ``key`` also ``q`` and ``k``.
    layer, head
        Which layer, and the head that is large at first.
    batch
        Which prompt.
    query, key
        Two positions, both or neither: bars below split the head's q · k there by dimension. By default there are none.
    title
        The figure's title; by default none.

    Returns
    -------
    Figure
        Rows are queries, columns keys; the more a query attends to a key, the darker.

    Raises
    ------
    OutOfRange
        For a layer, head, position or prompt that is not there.
    CasebackError
        For a run that did not read what is drawn.

    Examples
    --------
    >>> import caseback as cb
    >>> run = cb.load("meadow").run("the cat and the dog", read=["pattern", "q", "k"])
    >>> attention(run, layer=0, head=1, query=-1, key=2).modes
    ['L0H1', 'L0H0', 'L0H2', 'L0H3', 'L0H4']
    """
    patterns = attention_of_layer(run, layer, batch=batch)  # type: ignore[arg-type]  # a view imports no Run
    n_heads, n = patterns.sizes["head"], patterns.sizes["query"]
    if not 0 <= head < n_heads:
        raise OutOfRange(f"head {head}: layer {layer} has {n_heads}, 0 to {n_heads - 1}")
    order = [head, *(h for h in range(n_heads) if h != head)]
    tokens = [f"{i} {visible(str(token))}" for i, token in enumerate(patterns["token"].values.tolist())]
    cell = min(max(_ROOM / n, 7.0), 30.0)
    grid = Grid(tokens, tokens, "query", "key", False, round(cell, 1), round(cell, 1), 14)
    x, y = grid.left + grid.beyond, 42.0
    wide, high = grid.size
    values = patterns.values.astype(np.float64)
    images = [image_of(values[h], 1.0) for h in order]
    parts = [scale_bar(x, 2, 1.0, "attention"), rect(x, y, wide, high, class_="ground")]
    for i, h in enumerate(order):
        shown = {} if i == 0 else {"display": "none"}
        name = text(f"L{layer}H{h}", x + wide, 12, class_="strong end")
        parts.append(element("g", grid.image(x, y, images[i]), name, data_mode=i, **shown))
    parts += [grid.gaps(x, y), *grid.row_labels(x, y), *grid.column_labels(x, y + high)]
    columns = max(1, min(n_heads, math.ceil(math.sqrt(n_heads)) if n_heads <= 16 else 6))
    left = x + wide + 26
    for h in range(n_heads):
        at = left + (h % columns) * (_THUMBNAIL + _APART), y + (h // columns) * (_THUMBNAIL + 22)
        parts.append(_thumbnail(images[order.index(h)], f"H{h}", order.index(h), *at))
    bottom = max(y + high + grid.below, y + math.ceil(n_heads / columns) * (_THUMBNAIL + 22))
    cells = grid.for_script(x, y, [grid.numbers(f"L{layer}H{h}", values[h], "share") for h in order], only=True)
    width = left + columns * (_THUMBNAIL + _APART)
    caption = of_prompts(batch, patterns.attrs["prompts"])
    if (query is None) != (key is None):
        raise OutOfRange(f"query={query}, key={key}: expected two positions, or neither")
    if query is not None and key is not None:
        split = score_by_dimension(run, layer, head, query=query, key=key, batch=batch)  # type: ignore[arg-type]
        about = split.attrs
        words = f"q · k of L{layer}H{head} by dimension: {about['query']} {about['query_token']}"
        words += f" to {about['key']} {about['key_token']}, in all {signed(float(split.sum()))}"
        words += " (the mask hides this key)" if about["key"] > about["query"] else ""
        parts.append(_bars(split.values, words, x, bottom + 14, max(wide, 360.0)))
        bottom += 150
        width = max(width, x + max(wide, 360.0) + 40)
    names = [f"L{layer}H{h}" for h in order]
    return Figure(
        "".join(parts),
        width,
        bottom + 6,
        title,
        patterns,
        [cells],
        names,
        caption,
        f"What do the heads of layer {layer} attend to?",
    )


def _thumbnail(image: str, name: str, mode: int, x: float, y: float) -> str:
    scaled = {"preserveAspectRatio": "none", "image_rendering": "optimizeSpeed"}
    size = {"x": x, "y": y + 12, "width": _THUMBNAIL, "height": _THUMBNAIL}
    return element(
        "g",
        text(name, x, y + 8, class_="small soft"),
        element("rect", **size, class_="ground"),
        element("image", href=image, **size, **scaled),
        element("rect", **size, class_="frame"),
        data_choose=mode,
        aria_label=f"head {name}",
    )


def _bars(values: np.ndarray, words: str, x: float, y: float, wide: float) -> str:
    """A bar a dimension: orange raises the score, blue lowers it."""
    high, step = 84.0, wide / len(values)
    most = float(np.abs(values).max()) or 1.0
    middle = y + 18 + high / 2
    parts = [text(words, x, y + 4, class_="strong"), line(x, middle, x + wide, middle, class_="zero")]
    for i, value in enumerate(values.tolist()):
        tall = abs(value) / most * high / 2
        top = middle - tall if value > 0 else middle
        kind = "foil" if value < 0 else "target"
        more = f"dimension {i}: {signed(value)}"
        parts.append(rect(x + i * step, top, max(step - 1, 0.8), tall, class_=kind, more=more))
    for value, at in ((most, y + 24), (-most, y + 18 + high)):
        parts.append(text(number(value), x - 6, at, class_="small faint end"))
    parts.append(text("dimension", x + wide / 2, y + high + 36, class_="small faint mid"))
    return "".join(parts)
