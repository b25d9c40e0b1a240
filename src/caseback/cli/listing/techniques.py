"""`caseback techniques`: every technique with its entry in the Primer, its cost, its authors, and an example."""

from typing import Annotated, Any

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.listing.remembered import remembered
from caseback.cli.loading import quiet
from caseback.cli.options import Json
from caseback.cli.with_options import with_options


@with_options
def techniques(
    words: Annotated[
        list[str] | None, Argument(help="Only those that have all these words, an entry's number such as 3.2.7 too.")
    ] = None,
    role: Annotated[
        str | None, Option(help="Only those of one role, such as lens, detector or 'circuit finder'.")
    ] = None,
    output: Json = Json(),
) -> None:
    """List the techniques: entry in the Primer, name, cost, what it does, who published it; of a few, an example."""
    from caseback.reports.tables.techniques import rows_with
    from caseback.views.text.listings.techniques import print_techniques

    rows = rows_with(remembered("techniques", _every), role, words or ())
    answer(output, rows, text=lambda: print_techniques(rows))


def _every() -> list[dict[str, Any]]:
    from caseback.reports.tables.techniques import technique_rows

    with quiet():
        return technique_rows()
