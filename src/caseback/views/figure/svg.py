"""The few elements of SVG that figures are made of, as text in which nothing of the data is markup."""

from __future__ import annotations

import html
import unicodedata

from caseback.reports.document import checked

__all__ = ["clipped", "element", "line", "rect", "text", "width_of"]


@checked
def element(name: str, *inside: str, **attributes: object) -> str:
    """An element with what is inside it, as SVG already; ``class_`` is the attribute ``class``, ``_`` reads ``-``.

    Examples
    --------
    >>> element("g", class_="a<b", x=1.25)
    "<g class='a&lt;b' x='1.2'/>"
    """
    shown = "".join(f" {key.rstrip('_').replace('_', '-')}='{_value(value)}'" for key, value in attributes.items())
    body = "".join(inside)
    return f"<{name}{shown}>{body}</{name}>" if body else f"<{name}{shown}/>"


@checked
def text(words: str, x: float, y: float, *, more: str = "", **attributes: object) -> str:
    """A line of text; ``more`` is what a pointer shows.

    Examples
    --------
    >>> text("a<b", 1, 2)
    "<text x='1' y='2'>a&lt;b</text>"
    """
    pointed = element("title", html.escape(more)) if more else ""
    # a text in another direction turns no other part of the line around
    return element("text", pointed, html.escape(words), x=x, y=y, **attributes)


@checked
def rect(x: float, y: float, width: float, height: float, *, more: str = "", **attributes: object) -> str:
    """A rectangle; ``more`` is what a pointer shows."""
    pointed = element("title", html.escape(more)) if more else ""
    return element("rect", pointed, x=x, y=y, width=width, height=height, **attributes)


@checked
def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


@checked
def width_of(words: str, size: float = 12.0) -> float:
    """About how wide a text of the pages' monospaced letters is, in pixels; a wide character counts twice.

    Examples
    --------
    >>> width_of("ab", 10.0), width_of("漢", 10.0)
    (12.0, 12.0)
    """
    cells = sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in words)
    return 0.6 * size * cells


@checked
def clipped(words: str, most: int) -> str:
    """The text, of which an ellipsis stands for the end where it is wider than ``most`` letters.

    Examples
    --------
    >>> clipped("abcdef", 4), clipped("abcd", 4)
    ('abc…', 'abcd')
    """
    if width_of(words) <= most * 7.2 + 1e-6:
        return words
    while words and width_of(words) > (most - 1) * 7.2:
        words = words[:-1]
    return words + "…"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return html.escape(str(value))
