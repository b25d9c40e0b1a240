"""A curve beside a band, as a drawing of its own: lines over doses, without a script.

x from the first dose to the last, y from the least to the largest of all that is drawn, or of its logarithm
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from caseback.errors import CasebackError
from caseback.reports.document import checked
from caseback.views.numbers_text import number

__all__ = ["curve_svg", "ticks"]

_WIDTH, _HEIGHT = 340, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 10, 8, 24
Line = Sequence[float | None]
"""A value for each x; None where there is none."""


@checked
def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from ``low`` to ``high``, about as many as are wanted: multiples of 1, 2 or 5 times a power of 10.

    Examples
    --------
    >>> ticks(-0.3, 1.1), ticks(12.0, 190.0)
    ([0.0, 0.5, 1.0], [50.0, 100.0, 150.0])
    """
    if not high > low or count < 1:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return [round(i * step, 12) + 0.0 for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


@checked
def curve_svg(
    words: str,
    x: Sequence[float],
    line: Line,
    *,
    beside: Line | None = None,
    band: tuple[Line, Line] | None = None,
    edges: tuple[float | None, float | None] = (None, None),
    log: bool = False,
    log_x: bool = False,
) -> str:
    """Draw a line over ``x``.

    Parameters
    ----------
    words
        What the drawing shows, for readers who do not see it.
    x
        Rising.
    line
        The line itself.
    beside
        A dashed line beside it.
    band
        The lower and the upper end of a band.
    edges
        Beyond which x, below and above, the drawing is shaded; None where it is not.
    log, log_x
        Draw the logarithm; of x, which is then not below 0, that of x + 1.

    Returns
    -------
    str
        SVG.

    Raises
    ------
    CasebackError
        For lines of other lengths than ``x``, and fewer than two numbers.

    Examples
    --------
    >>> drawing = curve_svg("effect", [-1.0, 0.0, 1.0], [2.0, 0.0, 3.0], edges=(None, 0.5))
    >>> drawing.count("<circle"), drawing.count("class='beyond'")
    (3, 1)
    """
    lines = [line, *([] if beside is None else [beside]), *(band or ())]
    if any(len(one) != len(x) for one in lines) or len(x) < 2:
        raise CasebackError(
            f"lines of {[len(one) for one in lines]} values over {len(x)}: expected one each, 2 at least"
        )
    of = (lambda y: math.log2(max(y, 1e-12))) if log else float
    values = [of(y) for one in lines for y in one if y is not None]
    if not values:
        raise CasebackError(f"no value of {words!r} is a number: expected some")
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    low, high = low - room, high + room

    of_x = math.log1p if log_x else float

    def across(at: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (of_x(at) - of_x(x[0])) / (of_x(x[-1]) - of_x(x[0]))

    def up(at: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - at) / (high - low)

    def path(one: Line, start: str = "M") -> str:
        steps, pen = [], start
        for at, y in zip(x, one, strict=True):
            if y is None:
                pen = "M"
                continue
            steps.append(f"{pen}{across(at):.1f} {up(of(y)):.1f}")
            pen = "L"
        return "".join(steps)

    floor = _HEIGHT - _BOTTOM
    parts = []
    for edge, end in zip(edges, (x[0], x[-1]), strict=True):
        if edge is not None:
            a, b = sorted((across(edge), across(end)))
            parts.append(f"<rect class='beyond' x='{a:.1f}' y='{_TOP}' width='{b - a:.1f}' height='{floor - _TOP}'/>")
            parts.append(f"<path class='edge' d='M{across(edge):.1f} {_TOP}V{floor}'/>")
    marks = _powers(low, high) if log else ticks(low, high)
    for y in marks:
        at, kind = up(of(y)), "zero-line" if y == 0 and not log else "tick"
        parts.append(f"<line class='{kind}' x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{at:.1f}' y2='{at:.1f}'/>")
        parts.append(f"<text class='axis' x='{_LEFT - 6}' y='{at + 4:.1f}' text-anchor='end'>{_short(y)}</text>")
    for at in _tens(x[0], x[-1]) if log_x else ticks(x[0], x[-1], 5):
        anchor = "end" if across(at) > _WIDTH - 16 else "middle"  # a wide number would leave the drawing
        parts.append(
            f"<text class='axis' x='{across(at):.1f}' y='{_HEIGHT - 7}' text-anchor='{anchor}'>{_short(at)}</text>"
        )
    if band is not None:
        both = [(at, a, b) for at, a, b in zip(x, *band, strict=True) if a is not None and b is not None]
        corners = [(at, b) for at, _, b in both] + [(at, a) for at, a, _ in reversed(both)]
        drawn = "L".join(f"{across(at):.1f} {up(of(y)):.1f}" for at, y in corners)
        parts.append(f"<path class='random-band' d='M{drawn}Z'/>" if drawn else "")
    if beside is not None:
        parts.append(f"<path class='random' d='{path(beside)}'/>")
    parts.append(f"<path class='steered' d='{path(line)}'/>")
    for at, y in zip(x, line, strict=True):
        if y is not None:
            shown = html.escape(f"{_short(at)}: {number(y)}")
            center = f"cx='{across(at):.1f}' cy='{up(of(y)):.1f}'"
            parts.append(f"<circle class='point' {center} r='3'><title>{shown}</title></circle>")
    label = html.escape(words, quote=True)
    return f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='{label}'>{''.join(parts)}</svg>"


def _tens(low: float, high: float) -> list[float]:
    """0, 1, 10, 100 ..., from one number to another; both ends where fewer than two lie there."""
    tens = [at for at in (0.0, *(10.0**i for i in range(16))) if low <= at <= high]
    return tens if len(tens) > 1 else [low, high]


def _powers(low: float, high: float) -> list[float]:
    """Powers of 2, every one, second, fourth ..., between two logarithms; where none is, both ends."""
    first, last = math.ceil(low), math.floor(high)
    every = 1
    while (last - first) // every > 5:
        every *= 2
    powers = [2.0**i for i in range(first, last + 1) if i % every == 0]
    return powers if len(powers) > 1 else [2.0**low, 2.0**high]


def _short(value: float) -> str:
    """A number of an axis."""
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}").replace("-", "−")
