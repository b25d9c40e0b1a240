"""Lines from left to right, with points that say their numbers: ranks by layer, divergences by depth.

Lines have no sign, so none is orange or blue, which say target and foil: their hues differ in lightness too, which
common color blindness keeps, and dashes take turns with them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from caseback.errors import CasebackError
from caseback.reports.document import checked
from caseback.views.figure.svg import clipped, element, line, text, width_of
from caseback.views.numbers_text import number

__all__ = ["N_LINES", "legend", "panel"]

N_LINES = 6
"""How many looks of lines there are before they begin again."""


@checked
def panel(
    lines: Mapping[str, Sequence[float]],
    at: Sequence[str],
    *,
    x: float,
    y: float,
    wide: float,
    high: float,
    title: str = "",
    axis: str = "",
    ranks: bool = False,
) -> str:
    """Lines over the same places; a number that is not finite leaves a gap.

    Parameters
    ----------
    lines
        Numbers of each place by the lines' names.
    at
        The places' names, from left to right.
    x, y, wide, high
        The upper left corner and the size of the area that lines are drawn in.
    title, axis
        What stands above it and below it, as text; by default nothing.
    ranks
        Whether the numbers are ranks: by their logarithm, 1 on top.

    Raises
    ------
    CasebackError
        Where a line has another number of points than there are places.

    Examples
    --------
    >>> panel({"kl": [2.0, 1.0]}, ["0", "1"], x=0, y=0, wide=90, high=60).count("<circle")
    2
    """
    for name, values in lines.items():
        if len(values) != len(at):
            raise CasebackError(f"the line {name!r} has {len(values)} points, and there are {len(at)} places")
    finite = [float(v) for values in lines.values() for v in values if math.isfinite(v)]
    most = max([*finite, 2.0 if ranks else 0.0]) or 1.0
    least = 0.0 if ranks else min([*finite, 0.0])

    def up(value: float) -> float:
        share = 1 - math.log10(max(value, 1.0)) / math.log10(most) if ranks else (value - least) / (most - least)
        return y + high * (1 - share)

    def along(i: int) -> float:
        return x + wide * ((i + 0.5) / len(at))

    marks = [10.0**i for i in range(int(math.log10(most)) + 1)] if ranks else [least, (least + most) / 2, most]
    parts = [text(title, x, y - 10, class_="strong")] if title else []
    for mark in marks:
        parts.append(line(x, up(mark), x + wide, up(mark), class_="rule"))
        words = f"{int(mark):,}" if ranks else number(mark)
        parts.append(text(words, x - 6, up(mark) + 4, class_="small faint end"))
    step = max(1, math.ceil(max((width_of(name, 11) for name in at), default=0.0) * len(at) / max(wide - 8, 1)))
    parts += [text(at[i], along(i), y + high + 15, class_="small faint mid") for i in range(0, len(at), step)]
    if axis:
        parts.append(text(axis, x + wide / 2, y + high + 31, class_="small faint mid"))
    for i, (name, values) in enumerate(lines.items()):
        path, pen = "", "M"
        for j, value in enumerate(values):
            if not math.isfinite(value):
                pen = "M"
                continue
            path, pen = f"{path}{pen}{along(j):.1f} {up(value):.1f}", "L"
        parts.append(element("path", d=path or "M0 0", class_=f"trend l{i % N_LINES}"))
        for j, value in enumerate(values):
            if math.isfinite(value):
                shown = f"{int(value):,}" if ranks else number(float(value))
                more = element("title", html.escape(f"{name}, {at[j]}: {shown}"))
                parts.append(element("circle", more, cx=along(j), cy=up(value), r=2.6, class_=f"dot l{i % N_LINES}"))
    return "".join(parts)


@checked
def legend(names: Sequence[str], x: float, y: float, wide: float) -> tuple[str, float]:
    """What each line is, in rows of at most ``wide`` pixels, and how high they are.

    Examples
    --------
    >>> legend(["a", "b"], 0, 0, 400)[1]
    18.0
    """
    parts, left, top = [], x, y
    for i, name in enumerate(names):
        shown = clipped(name, 30)
        room = width_of(shown, 12) + 44
        if left > x and left + room > x + wide:
            left, top = x, top + 18
        parts.append(line(left, top + 8, left + 22, top + 8, class_=f"trend l{i % N_LINES}"))
        parts.append(text(shown, left + 28, top + 12, class_="soft"))
        left += room
    return "".join(parts), float(top - y + 18)
