"""A waterfall as a figure. Orange raises, blue lowers, gray is a total."""

from __future__ import annotations

import numpy as np

from caseback.reports.document import checked
from caseback.reports.waterfall import Bar, Waterfall
from caseback.views.figure.figure import Figure
from caseback.views.figure.svg import clipped, line, rect, text, width_of
from caseback.views.numbers_text import number, signed

__all__ = ["waterfall_figure"]

_ROW, _ACROSS, _LONGEST = 22, 460, 30


@checked
def waterfall_figure(drawn: Waterfall, *, title: str = "", value: str = "") -> Figure:
    """A waterfall as a figure.

    Parameters
    ----------
    drawn
        The waterfall.
    title
        The figure's title; by default none.
    value
        What the shares are shares of, for the axis.

    Examples
    --------
    >>> import xarray as xr
    >>> from caseback.reports.waterfall import waterfall
    >>> shares = xr.DataArray([[3.0], [-1.0]], dims=["component", "batch"])
    >>> figure = waterfall_figure(waterfall(shares), value="logit")
    >>> figure.drawn.count("class='target'"), figure.drawn.count("class='foil'")
    (1, 1)
    """
    whole = Bar(drawn.whole, drawn.total, 0.0, drawn.spread)
    bars = [*drawn.bars, whole]
    many = drawn.n > 1
    low, high = _extent(bars, drawn)
    name_room = max(width_of(clipped(bar.name, _LONGEST), 12) for bar in bars) + 14
    shown = [signed(bar.value) for bar in drawn.bars] + [number(drawn.total)]
    if many:
        shown = [f"{words} ± {number(bar.spread or 0.0)}" for words, bar in zip(shown, bars, strict=True)]
    number_room = max(width_of(words, 11) for words in shown) + 16
    parts, top = [], 8.0

    def at(x: float) -> float:
        return name_room + _ACROSS * (x - low) / (high - low)

    bottom = top + _ROW * len(bars)
    for tick in _ticks(low, high):
        parts.append(line(at(tick), top, at(tick), bottom, class_="rule"))
        parts.append(text(number(tick), at(tick), bottom + 15, class_="small faint mid"))
    parts.append(line(at(0.0), top, at(0.0), bottom, class_="zero"))
    for i, (bar, words) in enumerate(zip(bars, shown, strict=True)):
        y = top + _ROW * i
        kind = "all-of-it" if bar is whole else "foil" if bar.value < 0 else "target"
        start, end = sorted((at(bar.start), at(bar.end)))
        spread = "" if bar.spread is None else f" ± {number(bar.spread)} sd over {drawn.n} prompts"
        running = "" if bar is whole else f"\nrunning total {number(bar.end)}"
        more = f"{bar.name}\n{signed(bar.value)}{spread}{running}"
        parts.append(text(clipped(bar.name, _LONGEST), name_room - 8, y + 15, class_="mono soft end", more=more))
        parts.append(rect(start, y + 4, max(end - start, 1.0), _ROW - 8, class_=kind, more=more))
        if bar is not whole:
            parts.append(line(at(bar.end), y + _ROW - 4, at(bar.end), y + _ROW + 4, class_="zero"))
        if bar.spread is not None:
            ends = at(bar.end - bar.spread), at(bar.end + bar.spread)
            parts.append(line(ends[0], y + _ROW / 2, ends[1], y + _ROW / 2, class_="spread"))
        parts.append(text(words, name_room + _ACROSS + 12, y + 15, class_="mono small"))
    over = f", mean of {drawn.n} prompts ± sd" if many else ""
    if value or over:
        parts.append(text(value + over, name_room + _ACROSS / 2, bottom + 32, class_="small soft mid"))
    return Figure(
        "".join(parts),
        name_room + _ACROSS + number_room,
        bottom + 38,
        title,
        drawn,
        question="What does it add up from?",
    )


def _extent(bars: list[Bar], drawn: Waterfall) -> tuple[float, float]:
    low, high = drawn.extent
    ends = np.array([bar.end for bar in bars])
    spreads = np.array([bar.spread or 0.0 for bar in bars])
    low, high = min(low, float((ends - spreads).min())), max(high, float((ends + spreads).max()))
    room = 0.03 * (high - low)
    return low - room * (low < 0), high + room


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, about five of them."""
    step = 10.0 ** np.floor(np.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    return [round(float(i * step), 12) for i in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]
