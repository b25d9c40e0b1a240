"""Bars made of characters: one for a share of a whole, one for a signed number around a center line.

A signed bar's side of the line shows its sign, so it reads the same without color. Where the output cannot carry
Unicode, plain characters take over.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text

from caseback.reports.document import checked

__all__ = ["ASCII", "UNICODE", "Glyphs", "share_bar", "signed_bar"]


@dataclass(frozen=True)
class Glyphs:
    """The characters that a terminal view draws with.

    ``left_half`` fills the left half of a cell, ``right_half`` the right half; in ASCII there are no halves.
    """

    full: str
    left_half: str
    right_half: str
    axis: str
    held: str
    weak: str
    failed: str
    ellipsis: str
    encoding: str

    def text(self, text: str) -> str:
        """The text in characters that this output can carry; all others are escaped.

        Examples
        --------
        >>> UNICODE.text("−1 ␣"), ASCII.text("−1 ␣")
        ('−1 ␣', '-1 _')
        """
        if self.encoding != "ascii":
            return text
        for mark, plain in _PLAIN.items():
            text = text.replace(mark, plain)
        return text.encode("ascii", "backslashreplace").decode("ascii")


_PLAIN = {"␣": "_", "↵": "\\n", "⇥": "\\t", "∅": "''", "−": "-", "×": "x", "·": "-", "…": "..."}
UNICODE = Glyphs("█", "▌", "▐", "│", "✓", "~", "✗", "…", "utf-8")
ASCII = Glyphs("#", "", "", "|", "+", "~", "x", "...", "ascii")


@checked
def share_bar(share: float, width: int, glyphs: Glyphs, style: str = "") -> Text:
    """A bar that fills the ``share`` (0 to 1) of ``width`` cells.

    Examples
    --------
    >>> share_bar(0.5, 9, UNICODE).plain
    '████▌'
    """
    return Text(_run(share, width, glyphs.full, glyphs.left_half), style=style, no_wrap=True)


@checked
def signed_bar(share: float, half: int, glyphs: Glyphs, styles: tuple[str, str]) -> Text:
    """A bar of ``share`` (−1 to 1) from the center line of ``2 · half + 1`` cells.

    Parameters
    ----------
    share
        The number divided by the largest on its scale.
    half
        How many cells are on either side of the line.
    glyphs
        What to draw with.
    styles
        The styles of a negative and of a positive bar.

    Examples
    --------
    >>> signed_bar(0.75, 4, UNICODE, ("", "")).plain, signed_bar(-0.375, 4, UNICODE, ("", "")).plain
    ('    │███ ', '  ▐█│    ')
    """
    negative, positive = styles
    bar = Text(no_wrap=True)
    left = _run(-share, half, glyphs.full, glyphs.right_half)[::-1] if share < 0 else ""
    right = _run(share, half, glyphs.full, glyphs.left_half) if share > 0 else ""
    bar.append(" " * (half - len(left)) + left, style=negative)
    bar.append(glyphs.axis, style="dim")
    bar.append(right, style=positive)
    bar.append(" " * (half - len(right)))
    return bar


def _run(share: float, width: int, full: str, half: str) -> str:
    halves = round(2 * max(0.0, min(1.0, share)) * width)
    return full * (halves // 2) + (half if halves % 2 else "")
