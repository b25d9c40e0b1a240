"""What users look at: rich text, pages, figures and notebooks' cells; it draws what ``caseback.reports`` computed.

Names are imported when first used, so that a table in the terminal imports no figure.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caseback.views.cells.show import show
    from caseback.views.figure.attention import attention
    from caseback.views.figure.figure import Figure
    from caseback.views.figure.graph import graph
    from caseback.views.figure.heatmap import heatmap
    from caseback.views.figure.lens_grid import lens_grid as lens
    from caseback.views.figure.projection import projection
    from caseback.views.figure.tokens import tokens

_HOMES = {
    "Figure": "figure.figure",
    "attention": "figure.attention",
    "graph": "figure.graph",
    "heatmap": "figure.heatmap",
    "projection": "figure.projection",
    "show": "cells.show",
    "tokens": "figure.tokens",
}

__all__ = ["Figure", "attention", "graph", "heatmap", "lens", "projection", "show", "tokens"]


def __getattr__(name: str) -> Any:
    if name == "lens":
        return import_module("caseback.views.figure.lens_grid").lens_grid
    if name in _HOMES:
        return getattr(import_module(f"caseback.views.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'caseback.views' has no attribute {name!r}")
