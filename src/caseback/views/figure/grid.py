"""A map with its axes: one image, labels as many as there is room for, and what a script needs to tell its cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from caseback.reports.document import checked
from caseback.views.figure.shades import image_of, packed_numbers
from caseback.views.figure.svg import clipped, element, line, rect, text, width_of
from caseback.views.numbers_text import number, signed

__all__ = ["Grid", "scale_bar"]

_LETTER, _SIZE = 6.6, 11.0
_LEAN = math.radians(55)


@checked
@dataclass(frozen=True)
class Grid:
    """Rows and columns of cells, and where they stand.

    Attributes
    ----------
    rows, columns
        Labels.
    row_name, column_name
        What they are; empty for nothing to say.
    upwards
        Whether the first row is the lowest, as layers are.
    wide, high
        A cell's size.
    longest
        Letters of a row's or column's label; longer ones are cut.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    row_name: str = ""
    column_name: str = ""
    upwards: bool = False
    wide: float = 20.0
    high: float = 20.0
    longest: int = 18

    @property
    def left(self) -> float:
        """Room for the rows' labels."""
        longest = max((width_of(clipped(name, self.longest), _SIZE) for name in self.rows), default=0.0)
        return math.ceil(longest + 10 + (16 if self.row_name else 0))

    @property
    def below(self) -> float:
        """Room for the columns' labels."""
        longest = max((width_of(clipped(name, self.longest), _SIZE) for name in self.columns), default=0.0)
        labels = 14 if self._flat else longest * math.sin(_LEAN) + 12 if longest else 0
        return math.ceil(labels + (18 if self.column_name else 4))

    @property
    def size(self) -> tuple[float, float]:
        """Of the cells alone."""
        return self.wide * len(self.columns), self.high * len(self.rows)

    @property
    def beyond(self) -> float:
        """Room that a leaning first label needs on the left of the cells."""
        if self._flat or not self.columns:
            return 0.0
        lean = width_of(clipped(self.columns[0], self.longest), _SIZE) * math.cos(_LEAN)
        return max(0.0, lean - self.left - self.wide / 2)

    @property
    def _flat(self) -> bool:
        return all(width_of(name, _SIZE) <= self.wide - 3 for name in self.columns)

    def drawn(self, x: float, y: float, address: str, *, labels_below: bool = True) -> str:
        """The image with its ground, the gaps between cells where these are large, and the labels.

        Parameters
        ----------
        x, y
            The upper left corner of the cells.
        address
            The image, with the first row on top.
        labels_below
            Whether the columns' labels are drawn.
        """
        wide, high = self.size
        parts = [rect(x, y, wide, high, class_="ground"), self.image(x, y, address)]
        parts += [self.gaps(x, y), *self.row_labels(x, y), *(self.column_labels(x, y + high) if labels_below else [])]
        return "".join(parts)

    def image(self, x: float, y: float, address: str, **attributes: object) -> str:
        """The cells alone."""
        wide, high = self.size
        scaled = {"preserveAspectRatio": "none", "image_rendering": "optimizeSpeed"}
        return element("image", href=address, x=x, y=y, width=wide, height=high, **scaled, **attributes)

    def gaps(self, x: float, y: float) -> str:
        """Lines between cells, where cells are large enough to stand apart."""
        if min(self.wide, self.high) < 9:
            return ""
        wide, high = self.size
        across = "".join(f"M{x:g} {y + self.high * i:.1f}h{wide:g}" for i in range(1, len(self.rows)))
        down = "".join(f"M{x + self.wide * i:.1f} {y:g}v{high:g}" for i in range(1, len(self.columns)))
        return element("path", d=across + down or "M0 0", class_="gap")

    def row_labels(self, x: float, y: float) -> list[str]:
        """One a row, or every n-th where rows are low."""
        step = max(1, math.ceil(12 / self.high))
        parts = []
        for i in range(0, len(self.rows), step):
            at = len(self.rows) - 1 - i if self.upwards else i
            shown, name = clipped(self.rows[i], self.longest), self.rows[i]
            more = "" if shown == name else name
            middle = y + self.high * (at + 0.5) + 4
            parts.append(text(shown, x - 6, middle, class_="mono small soft end", more=more))
        if self.row_name:
            middle = y + self.high * len(self.rows) / 2
            turned = f"rotate(-90 {x - self.left + 10:.1f} {middle:.1f})"
            parts.append(text(self.row_name, x - self.left + 10, middle, class_="small faint mid", transform=turned))
        return parts

    def column_labels(self, x: float, y: float) -> list[str]:
        """One a column, or every n-th where columns are narrow; leaning where they are wider than a column."""
        step = 1 if self._flat else max(1, math.ceil(11 / self.wide))
        parts = []
        for i in range(0, len(self.columns), step):
            shown, name = clipped(self.columns[i], self.longest), self.columns[i]
            at, more = x + self.wide * (i + 0.5), "" if shown == name else name
            if self._flat:
                parts.append(text(shown, at, y + 13, class_="mono small soft mid"))
            else:
                lean = f"rotate(-55 {at + 4:.1f} {y + 11:.1f})"
                parts.append(text(shown, at + 4, y + 11, class_="mono small soft end", transform=lean, more=more))
        if self.column_name:
            middle = x + self.size[0] / 2
            parts.append(text(self.column_name, middle, y + self.below - 4, class_="small faint mid"))
        return parts

    def upper_first(self, values: np.ndarray) -> np.ndarray:
        """Values whose first row is that of the grid as the image has them."""
        # a copy, since torch takes no array that runs backwards or cannot be written to
        return np.array(values[::-1] if self.upwards else values)

    def for_script(self, x: float, y: float, shown: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
        """What the script needs to say what a cell holds.

        Parameters
        ----------
        x, y
            As for ``drawn``.
        shown
            What it says, as ``Grid.numbers`` packs it.
        **more
            ``words``, ``notes`` and ``only``, as the script knows them.
        """
        named = {"rowName": self.row_name, "colName": self.column_name, "up": self.upwards}
        place = {"x": x, "y": y, "cw": self.wide, "ch": self.high}
        return {**place, **named, "rows": list(self.rows), "cols": list(self.columns), "shown": list(shown), **more}

    @staticmethod
    def numbers(name: str, values: np.ndarray, kind: str = "", spread: np.ndarray | None = None) -> dict[str, Any]:
        """A number of every cell under a name: ``signed``, a ``rank``, a ``share`` of 1, or any."""
        beside = {} if spread is None else {"spread": packed_numbers(spread)}
        return {"name": name, "kind": kind, **packed_numbers(np.array(values)), **beside}


@checked
def scale_bar(x: float, y: float, most: float, value: str, *, is_signed: bool = False, opaque: float = 1.0) -> str:
    """A strip of the shades with the numbers at its ends and what they are, 34 pixels high.

    Parameters
    ----------
    x, y
        Its upper left corner.
    most
        The number that has the full shade.
    value
        What the numbers are, as text.
    is_signed, opaque
        As for ``image_of``.
    """
    steps = np.linspace(-most if is_signed else 0.0, most, 61)[None]
    image = image_of(steps, most, signed=is_signed, opaque=opaque)
    placed = {"x": x, "y": y, "width": 150, "height": 9, "preserveAspectRatio": "none"}
    ends = [("0", x, "")] if not is_signed else [(signed(-most), x, ""), ("0", x + 75, " mid")]
    ends.append((signed(most) if is_signed else number(most), x + 150, " end"))
    return "".join(
        (
            rect(x, y, 150, 9, class_="ground"),
            element("image", href=image, **placed),
            *(text(name, at, y + 21, class_=f"small soft{where}") for name, at, where in ends),
            line(x + 75, y, x + 75, y + 9, class_="zero") if is_signed else "",
            text(value, x + 160, y + 9, class_="small soft"),
        )
    )
