"""The law of color of the terminal's views: orange supports the target or the metric, blue the foil.

Pages follow the same law: `views.figure.shades` and the kit of the pages.
"""

from __future__ import annotations

__all__ = ["AGAINST", "SIGNED", "SUPPORTS"]

SUPPORTS = "#c8741f"
AGAINST = "#4f8fd6"
SIGNED = (AGAINST, SUPPORTS)
"""The styles of a negative and of a positive number: ``SIGNED[value > 0]``."""
