"""The strongest places of an explanation's patching maps, for views that print a list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseback.model.arguments import checked
from caseback.model.graph.names import head_name
from caseback.reports.document import drawn_from
from caseback.reports.tokens_text import visible

__all__ = ["strongest_places"]


@checked
@drawn_from("patching", "explain")
def strongest_places(patching: Mapping[str, Any], most: int) -> list[tuple[str, str, float]]:
    """The places that restore most or take most away: what is patched, where, how much.

    For the stream, each position has only its strongest layer in the list (the last of equals), since what a place
    carries stays there from layer to layer.

    Parameters
    ----------
    patching
        What ``explain_patching.patching`` gives, or the same read from JSON.
    most
        How many places.
    """
    places: list[tuple[str, str, float]] = []
    for shown in patching["maps"]:
        for pos, column in enumerate(zip(*shown["recovery"], strict=True)):
            layers = shown.get("layers", range(len(column)))
            if shown["site"] == "resid_pre":
                i = max(range(len(column)), key=lambda i: (round(abs(column[i]), 3), i))
                places.append((f"{shown['label']} before layer {layers[i]}", _at(patching, pos), column[i]))
            else:
                named = zip(layers, column, strict=True)
                places += [(f"{shown['label'][:-1]} {layer}", _at(patching, pos), value) for layer, value in named]
    for layer, row in enumerate(patching["heads"]):
        exchanged = ((head, value) for head, value in enumerate(row) if value is not None)
        places += [(head_name(layer, head), "all positions", value) for head, value in exchanged]
    return sorted(places, key=lambda place: -abs(place[2]))[:most]


def _at(patching: Mapping[str, Any], pos: int) -> str:
    return f"{pos} {visible(patching['corrupt'][pos]['text'])}"
