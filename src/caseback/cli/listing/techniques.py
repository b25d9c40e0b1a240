"""`caseback techniques`: every technique with its entry in the Primer, its role, its authors and its cost."""

from typing import Annotated

from typer import Option

from caseback.cli.answer import answer
from caseback.cli.options import Json
from caseback.cli.with_options import with_options


@with_options
def techniques(
    role: Annotated[
        str | None, Option(help="Only those of one role, such as lens, detector or 'circuit finder'.")
    ] = None,
    output: Json = Json(),
) -> None:
    """List the techniques: entry in the Primer, name, role, cost, authors."""
    from caseback.reports.tables.techniques import technique_rows
    from caseback.views.text.listings.techniques import print_techniques

    rows = technique_rows(role)
    answer(output, rows, text=lambda: print_techniques(rows))
