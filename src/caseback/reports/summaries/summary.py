"""What an object is, as plain data: a line, a few facts, a short table, and what to do with it next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MOST_ROWS = 12
"""How many rows a summary's table has; what is left out is counted below it."""


@dataclass(frozen=True)
class Summary:
    """What is shown of an object.

    Attributes
    ----------
    title
        What it is.
    about
        A sentence on it; empty for none.
    facts
        Values by name, as text.
    heads, rows
        A table, as text; columns whose heads begin with ``#`` hold numbers.
    left_out
        How many rows the table would have beside these.
    more
        What to do with it next, as code or words; empty for nothing.
    """

    title: str
    about: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    left_out: int = 0
    more: str = ""


def number_text(value: float | None, digits: int = 3) -> str:
    """A number of a table; a dash for none."""
    return "–" if value is None or value != value else f"{value:.{digits}f}".replace("-", "−")
