"""An atlas in the terminal: a line for each kind, and its candidates with look, control, band, effect and verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from caseback.reports.atlas import ATLAS
from caseback.reports.document import Document, checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, signed

__all__ = ["print_atlas"]


@checked
def print_atlas(document: Document, *, console: Console | None = None) -> None:
    """Print what ``atlas_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with ATLAS.drawing(document):
        facts = document["model"]
        console.print(
            f"{facts['name']}: {facts.get('layers')} layers, {facts.get('heads')} heads; "
            f"{facts.get('tokens', 0):,} tokens of text",
            highlight=False,
            markup=False,
        )
        if left := facts.get("left out"):
            console.print(f"within {facts['budget']:.0f} s; left out: {left}", highlight=False, markup=False)
        for kind in document["kinds"]:
            console.print()
            console.print(_headline(kind), highlight=False, markup=False)
            own = [one for one in document["candidates"] if one["kind"] == kind["kind"]]
            if own:
                console.print(_candidates(own))
        for fact in document["facts"]:
            console.print()
            title = f"{fact['name']} ({fact['entry']}): "
            words = f"not measured: {fact['missing']}" if fact["missing"] else fact["what"]
            console.print(title + words, highlight=False, markup=False)
            for where, numbers in (("", fact["values"]), ("control: ", fact["control"])):
                for name, value in numbers.items():
                    console.print(f"   {where}{name}  {_by_layer(value)}", highlight=False, markup=False)


def _headline(kind: Mapping[str, Any]) -> str:
    title = f"{kind['kind']} ({kind['entry']}): "
    if kind["missing"]:
        return f"{title}not looked for: {kind['missing']}"
    words = f"{kind['labelled']} of {kind['units']} {kind['sort']}s, {kind['false_labels']} on the control"
    return f"{title}{words}" + (f"; no proof: {kind['unproved']}" if kind["unproved"] else "")


def _candidates(own: list[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    classes = [str(one["draw"].get("class", "")) for one in own]
    of = ["of"] if any(classes) else []
    for title in ("", *of, "score", "control", "band", "effect", "like units", "verdict"):
        side = "left" if title in ("", "of", "verdict") else "right"
        # where a terminal is narrow what a unit is of is cut, never a number or a name
        table.add_column(title, justify=side, no_wrap=title != "of", overflow="ellipsis")
    for one, of_class in zip(own, classes, strict=True):
        effect = "" if one["effect"] is None else signed(one["effect"])
        bound = one["draw"].get("matched units")
        table.add_row(
            f"  {one['component']}",
            *(visible(of_class) for _ in of),
            number(one["score"]),
            number(one["control"]),
            number(one["band"]),
            effect,
            "" if bound is None else signed(bound),
            " ".join([one["grade"], one["draw"].get("proved", "")]).strip(),
        )
    return table


def _by_layer(value: Any) -> str:
    """A number, or the numbers of the first, the middle and the last layer."""
    if not isinstance(value, list):
        return "–" if value is None else number(value)
    places = sorted({0, len(value) // 2, len(value) - 1}) if value else []
    return ", ".join(f"layer {i}: {'–' if value[i] is None else number(value[i])}" for i in places)
