"""Attention to MLP routing, in the terminal: neurons that no longer fire without a head's write, beside controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from caseback.reports.concepts.routing import ROUTING
from caseback.reports.document import Document, checked, drawn_from
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import percent

__all__ = ["print_routing", "routing_words"]

_HEADS = ("head → neuron", "lost", "at least", "tokens", "r", "other heads", "other neurons", "")


@checked
def print_routing(document: Document, *, console: Console | None = None) -> None:
    """Print what ``routing_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with ROUTING.drawing(document):
        console.print(f"{document['model']['name']}: {routing_words(document)}", highlight=False, markup=False)
        if not document["pairs"]:
            return
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
        for i, name in enumerate(_HEADS):
            table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
        for pair in document["pairs"]:
            shares = [_share(pair[name]) for name in ("lost", "low")]
            beside = [_share(pair[name]) for name in ("other_head", "matched")]
            r = "–" if pair["r"] is None else f"{pair['r']:.2f}"
            name = f"{pair['head']} → {pair['neuron']}"
            table.add_row(name, *shares, str(pair["fires"]), r, *beside, "above" if pair["above"] else "")
        console.print(table)
        first = document["pairs"][0]
        words = f"   {first['neuron']}: {visible(first['context'])}  (the head attends to {visible(first['attended'])})"
        console.print(words, highlight=False, markup=False)


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


@checked
@drawn_from("a document of routing", "routing_document")
def routing_words(document: Mapping[str, Any]) -> str:
    """How many pairs there are and how many are past their controls, in words.

    Examples
    --------
    >>> counts = {"tokens_chosen": 40, "tokens_judged": 50, "least": 5, "pairs": 3, "above": 1}
    >>> routing_words({"counts": counts, "bands": {"heads": 0.1, "matched": None}})
    '1 of 3 pairs above both bands (other heads 10%, other neurons –), on 50 held-out tokens'
    """
    counts, bands = document["counts"], document["bands"]
    if not counts["pairs"]:
        return (
            f"no neuron loses half of its firing without one head's write, on {counts['tokens_chosen']} tokens to "
            "choose pairs on"
        )
    return (
        f"{counts['above']} of {counts['pairs']} pairs above both bands (other heads {_share(bands['heads'])}, other "
        f"neurons {_share(bands['matched'])}), on {counts['tokens_judged']} held-out tokens"
    )
