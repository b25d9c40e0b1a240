"""A circuit at named spans in the terminal: the places, its strongest edges, and how much it recovers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from caseback.reports.document import checked
from caseback.reports.graphs.span_circuit import SPAN_CIRCUIT
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import percent, signed

__all__ = ["cancelled_words", "print_span_circuit"]


@checked
def print_span_circuit(document: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a circuit at named spans.

    Parameters
    ----------
    document
        What ``span_circuit`` gives as its document, or the same read from JSON.
    console
        Where to print; by default a new ``rich`` console on standard output.

    Raises
    ------
    CasebackError
        If it is not such a document, or cannot be drawn truthfully.

    Examples
    --------
    ::

        print_span_circuit(span_circuit(model, "agreement").document)
    """
    console = console or Console()
    with SPAN_CIRCUIT.drawing(document):
        parts = list(_parts(document))
    for part in parts:
        console.print(part, highlight=False, markup=False, emoji=False, soft_wrap=isinstance(part, Text))


@checked
def cancelled_words(share: float) -> str:
    """How much of the scores is lost where places are summed, as a sentence.

    Examples
    --------
    >>> cancelled_words(0.665)
    'Summed over places, edges lose 66% of their scores: what they do at one place cancels what they do at another.'
    >>> cancelled_words(0.009)
    'Summed over places, edges lose 0.9% of their scores.'
    """
    why = ": what they do at one place cancels what they do at another" if share > 0.05 else ""
    return f"Summed over places, edges lose {percent(share)} of their scores{why}."


def _parts(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    about, size = document["about"], document["size"]
    yield Text(f"{document['task']} in {visible(document['model']['name'])}, at its spans: {about['method']}", "bold")
    yield Text(f"{size['edges']} edges of {size['of']} at {len(document['places'])} places")
    yield Text(cancelled_words(document["cancelled"]))
    yield Text("\nPlaces", "bold")
    table = _table(("place", "left"), ("prompts", "right"), ("such as", "left"))
    for row in document["places"]:
        table.add_row(row["name"], str(row["prompts"]), visible(row["example"]))
    yield table
    yield Text("\nStrongest edges", "bold")
    table = _table(("edge", "left"), ("place", "left"), ("effect", "right"))
    for row in document["edges"]:
        table.add_row(row["edge"], row["place"], signed(row["effect"]))
    yield table
    yield Text(f"\nRecovered on other prompts, everything else set by {about['ablation']}", "bold")
    table = _table(("edges at places", "right"), ("at places", "right"), ("as many, everywhere", "right"))
    for row in document["curve"]:
        table.add_row(str(row["edges"]), f"{row['placed'][0]:.2f}", f"{row['everywhere'][0]:.2f}")
    yield table


def _table(*columns: tuple[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, side in columns:
        table.add_column(name, justify=side, no_wrap=True)
    return table
