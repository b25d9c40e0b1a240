"""A circuit of features, neurons or heads in the terminal: its nodes, its edges, and how it was judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from caseback.reports.document import checked
from caseback.reports.graphs.node_circuit import NODE_CIRCUIT
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, signed

__all__ = ["print_node_circuit"]

_LISTED = 12


@checked
def print_node_circuit(document: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a circuit of nodes.

    Parameters
    ----------
    document
        What ``node_circuit`` gives as its document, or the same read from JSON.
    console
        Where to print; by default a new ``rich`` console on standard output.

    Raises
    ------
    CasebackError
        If it is not such a document, or cannot be drawn truthfully.

    Examples
    --------
    ::

        print_node_circuit(node_circuit(model, "agreement", nodes="neurons").document)
    """
    console = console or Console()
    with NODE_CIRCUIT.drawing(document):
        parts = list(_parts(document))
    for part in parts:
        console.print(part, highlight=False, markup=False, emoji=False, soft_wrap=isinstance(part, Text))


def _parts(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    about, size = document["about"], document["size"]
    title = f"{document['task']} in {visible(document['model']['name'])}: {about['grain']} by {about['method']}"
    yield Text(title, "bold")
    yield Text(f"{size['nodes']} nodes, {size['edges']} edges; a score is what the other run's value would change")
    if about["uncovered"]:
        yield Text(f"no dictionary covers {', '.join(about['uncovered'])}: errors as a whole there")
    for what, key in (("nodes", "node"), ("edges", "edge")):
        rows = document[what]
        if rows:
            yield Text(f"\nStrongest {what}{'' if len(rows) <= _LISTED else f' ({_LISTED} of {len(rows)})'}", "bold")
            table = _table((key, "left"), ("score", "right"))
            for row in rows[:_LISTED]:
                table.add_row(row[key], signed(row["score"]))
            yield table
    yield Text(f"\nEverything else set to its {about['ablation']}", "bold")
    table = _table(("nodes", "right"), ("errors", "left"), ("faithful", "right"), ("without it", "right"))
    for row in document["judgement"]:
        table.add_row(str(row["nodes"]), row["way"], number(row["faithfulness"]), number(row["completeness"]))
    yield table


def _table(*columns: tuple[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, side in columns:
        table.add_column(name, justify=side, no_wrap=True)
    return table
