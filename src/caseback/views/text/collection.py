"""Collections and similar contexts in the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from caseback.reports.document import checked, drawn_from

__all__ = ["print_collection", "print_similar"]


@checked
@drawn_from("facts of a collection", "collection_facts")
def print_collection(facts: dict[str, Any], *, console: Console | None = None) -> None:
    """Print what a collection holds."""
    console = console or Console()
    where = f", in {facts['folder']}" if facts["folder"] else ""
    console.print(f"{facts['tokens']:,} tokens of {facts['model']}{where}", highlight=False, soft_wrap=True)
    if facts.get("split"):
        split = f"{facts['split']:,} of {facts['documents']:,} documents are longer than a row"
        console.print(f"{split} of {facts['row_tokens']:,} tokens: they were split", highlight=False, soft_wrap=True)
    if facts.get("without_text"):
        console.print(f"{facts['without_text']:,} documents have no text: passed over", highlight=False)
    if facts["tables"]:
        table = Table("table", "arrays", box=None, pad_edge=False)
        for name, arrays in facts["tables"].items():
            sizes = [f"{key} ({', '.join(f'{dim} {n}' for dim, n in dims.items())})" for key, dims in arrays.items()]
            table.add_row(name, Text(", ".join(sizes)))
        console.print(table)
    if facts["activations"]:
        console.print(f"activations of {', '.join(facts['activations'])}")


@checked
@drawn_from("similar contexts", "similar_contexts")
def print_similar(neighbors: dict[str, Any], *, console: Console | None = None) -> None:
    """Print contexts, the nearest first, and what they have in common."""
    console = console or Console()
    table = Table("score", "context", box=None, pad_edge=False)
    for one in neighbors["contexts"]:
        text = Text("".join(one["before"]).replace("\n", "↵"))
        text.append(one["token"].replace("\n", "↵"), style="bold reverse")
        text.append("".join(one["after"]).replace("\n", "↵"))
        table.add_row(f"{one['score']:.3f}", text)
    console.print(table)
    for one in neighbors["common"]:
        shares = f"{one['share']:.0%} of these, {one['base']:.2%} of all tokens"
        console.print(Text(f"{one['where']} it: {one['token']!r} in {shares}"), soft_wrap=True)
