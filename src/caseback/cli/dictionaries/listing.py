"""`caseback dictionary list`: published dictionaries that are known of."""

from typing import Annotated

import typer
from typer import Option

from caseback.cli.answer import answer
from caseback.cli.options import Json
from caseback.cli.with_options import with_options


@with_options
def listing(
    model: Annotated[str | None, Option("--model", "-m", help="Those of one model, by a part of its name.")] = None,
    output: Json = Json(),
) -> None:
    """List published dictionaries by model: their hub repository, layout, sites and widths."""
    from caseback.decode.dictionaries import published

    releases = published(model)

    def text() -> None:
        for one in releases:
            typer.echo("  ".join(f"{value}" for value in one.values()))
        if not releases:
            typer.echo(f"none is known of for {model!r}: caseback.decode.dictionaries.load reads any hub id")

    answer(output, releases, text=text)
