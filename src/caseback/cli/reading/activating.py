"""`caseback activating`: which inputs of a corpus activate a unit most, in their contexts."""

import json
from pathlib import Path
from typing import Annotated

import typer

from caseback.cli.inputs import file_to, numbers
from caseback.cli.loading import DEFAULT_MODEL, quiet
from caseback.errors import CasebackError

_MOST_SHOWN = 10


def activating(
    corpus: Annotated[Path, typer.Argument(help="A text file with a text a line.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A bundled model, a folder or a hub id.")] = DEFAULT_MODEL,
    site: Annotated[str, typer.Option(help="mlp_post, z, resid_post ... : whose units.")] = "mlp_post",
    layer: Annotated[int | None, typer.Option(help="The site's layer.", show_default=False)] = None,
    units: Annotated[
        str | None,
        typer.Option(help="Units such as 0,5-9; by default all, of which few are shown.", show_default=False),
    ] = None,
    top: Annotated[int, typer.Option(help="Tokens kept for each unit.")] = 10,
    per_row: Annotated[bool, typer.Option("--per-row", help="Keep only each row's strongest token.")] = False,
    skip: Annotated[int, typer.Option(help="First positions of each row that do not count.")] = 0,
    length: Annotated[int | None, typer.Option(help="Tokens of a row at most.", show_default=False)] = None,
    batch: Annotated[int | None, typer.Option(help="Rows of a batch.", show_default=False)] = None,
    ranges: Annotated[bool, typer.Option("--ranges", help="Show examples of the whole range too.")] = False,
    store: Annotated[
        Path | None, typer.Option(help="A folder to keep the collection in and to go on from.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write the units as an HTML page.", show_default=False)] = None,
) -> None:
    """Find the inputs of a corpus that activate units most, and show them in context."""
    file_to(save)
    if top < 1:
        raise CasebackError(f"--top {top}: expected at least 1")
    chosen = numbers(units, "--units")
    with quiet():
        from caseback.decode.vocabulary.activating import activating_inputs
        from caseback.model.running.load import load
        from caseback.reports.unit import unit_document

        loaded = load(model)
        found = activating_inputs(
            loaded,
            corpus,
            site,
            layer=layer,
            units=chosen,
            top=top,
            per_row=per_row,
            skip=skip,
            length=length,
            batch=batch,
            store=store,
        )
        # of all, those whose strongest token stands out most from the unit's own spread
        shown = chosen or found.outstanding(_MOST_SHOWN)
        document = unit_document(loaded, found, shown, top=top)
    if as_json:
        typer.echo(json.dumps(document, allow_nan=False))
    else:
        from caseback.views.text.unit import print_units

        print_units(document, ranges=ranges)
    if save is not None:
        from caseback.views.page.kinds import write_page

        typer.echo(f"written to {write_page(document, save)}", err=True)
