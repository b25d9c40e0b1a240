"""The strongest places of an explanation's patching maps, for views that print a list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseback.reports.tokens_text import visible

__all__ = ["strongest_places"]


def strongest_places(found: Mapping[str, Any], most: int) -> list[tuple[str, str, float]]:
    """The places that bring most back or take most away: what is patched, where, how much.

    Of the stream only places that no later one of the same position outdoes are kept, since what a place carries stays
    there from layer to layer.

    Parameters
    ----------
    found
        What ``patching`` gave, or the same read from JSON.
    most
        How many.
    """
    places: list[tuple[str, str, float]] = []
    for shown in found["maps"]:
        for pos, column in enumerate(zip(*shown["recovery"], strict=True)):
            if shown["site"] == "resid_pre":
                layer = max(range(len(column)), key=lambda i: (round(abs(column[i]), 3), i))
                places.append((f"{shown['label']} before layer {layer}", _at(found, pos), column[layer]))
            else:
                places += [(f"{shown['label'][:-1]} {i}", _at(found, pos), value) for i, value in enumerate(column)]
    for layer, row in enumerate(found["heads"]):
        places += [(f"L{layer}H{head}", "all positions", value) for head, value in enumerate(row)]
    return sorted(places, key=lambda place: -abs(place[2]))[:most]


def _at(found: Mapping[str, Any], pos: int) -> str:
    return f"{pos} {visible(found['corrupt'][pos]['text'])}"
