"""`caseback techniques`: every technique with its entry in the Primer, its authors and its cost."""

import json
import sys
from typing import Annotated

import typer


def techniques(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array, one object a technique.")] = False,
) -> None:
    """List the techniques: entry in the Primer, name, cost, authors."""
    from caseback.model import registry

    listed = registry.techniques()
    if as_json:
        rows = [
            {
                "name": t.name,
                "entry": list(t.entry),
                "citation": t.citation,
                "cost": t.cost,
                "summary": t.summary,
            }
            for t in listed
        ]
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
    else:
        _print_table(listed)


def _print_table(listed: list) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Techniques: {len(listed)}", title_justify="left")
    table.add_column("entry", no_wrap=True)
    for column in ("technique", "summary", "cost", "citation"):
        table.add_column(column, overflow="fold")
    for t in listed:
        # Text, since a cost such as "[steps] x forward" is no markup
        table.add_row(*(Text(cell) for cell in (", ".join(t.entry), t.name, t.summary, t.cost, t.citation)))
    # a pipe has no width of its own, and 80 columns would fold every cell
    Console(width=None if sys.stdout.isatty() else 200).print(table)
