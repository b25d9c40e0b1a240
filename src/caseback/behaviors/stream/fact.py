"""One fact of the stream: numbers, mostly one a layer, the same of a control, and words for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Numbers = Mapping[str, float | Sequence[float]]
"""By name a number, or one a layer."""


@dataclass(frozen=True)
class Fact:
    """What was measured.

    Attributes
    ----------
    name, entry, citation
        What it is called, the Primer's entry, and who described it.
    what
        What the numbers are, in words.
    values
        Numbers by name.
    control
        The same where the relation is absent.
    control_is
        What that is, in words.
    missing
        Why nothing was measured; empty where something was.
    """

    name: str
    entry: str
    citation: str
    what: str
    values: Numbers = field(default_factory=dict)
    control: Numbers = field(default_factory=dict)
    control_is: str = ""
    missing: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"values": dict(self.values), "control": dict(self.control)}
