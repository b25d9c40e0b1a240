"""How a figure tells lines apart that have no sign: hues other than orange and blue, which say target and foil.

Colors differ in lightness as well as in hue, which common color blindness keeps, and dashes take turns with them.
"""

from __future__ import annotations

from caseback.reports.document import checked

__all__ = ["line_of"]

_COLORS = ("#1b7f79", "#882255", "#8a8a24", "#1a1e22", "#cc79a7", "#117733", "#808080")
_DASHES = ("solid", "dash", "dot")


@checked
def line_of(i: int) -> dict[str, str]:
    """The color and the dashes of a figure's i-th line.

    Examples
    --------
    >>> line_of(0)
    {'color': '#1b7f79', 'dash': 'solid'}
    """
    return {"color": _COLORS[i % len(_COLORS)], "dash": _DASHES[i % len(_DASHES)]}
