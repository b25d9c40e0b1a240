"""What a bundled model was measured to do, in the terminal, beside its targets."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from caseback.reports.document import checked, drawn_from

__all__ = ["print_scores"]


@checked
@drawn_from("a row of scores", "as_rows")
def print_scores(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows of ``caseback.organisms.evaluate.as_rows`` as a table."""
    table = Table(title="Held-out accuracy", title_justify="left")
    for column in ("behavior", "held out", "top", "over foil", "probability", "target"):
        table.add_column(column, overflow="fold")
    for row in rows:
        target = "" if row["target"] is None else f"{row['target']:.0%}{'' if row['reached'] else ' missed'}"
        foil = "" if row["over_foil"] is None else f"{row['over_foil']:.1%}"
        table.add_row(
            Text(f"{row['behaviour']}: {row['what']}"),
            Text(row["held_out"]),
            f"{row['top']:.1%}",
            foil,
            f"{row['probability']:.3f}",
            target,
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
