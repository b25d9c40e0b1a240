"""`caseback activating`: which inputs of a corpus activate a unit most, in their contexts."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.inputs import numbers
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import BatchSize, Layer, OfModel, Output, Site, Skip, Stored, Top, Units
from caseback.cli.with_options import with_options

_MOST_SHOWN = 10


@with_options
def activating(
    corpus: Annotated[Path, Argument(help="A file of texts: one a line, or JSON (.json, .jsonl).")],
    of: OfModel = OfModel(),
    site: Site = Site("mlp_post").worded(site="mlp_post, z, resid_post ...: whose units."),
    layer: Layer = Layer(None).worded(layer="The site's layer."),
    units: Units = Units().worded(units="Units such as 0,5-9; by default all, of which few are shown."),
    top: Top = Top(10).worded(top="How many tokens are kept for each unit."),
    per_row: Annotated[bool, Option("--per-row", help="Keep only each row's strongest token.")] = False,
    skip: Skip = Skip(),
    batch: BatchSize = BatchSize(),
    ranges: Annotated[bool, Option("--ranges", help="Show examples of the whole range too.")] = False,
    stored: Stored = Stored().worded(
        max_length="Tokens of a row at most; by default 128, or the model's context if that is less."
    ),
    output: Output = Output(),
) -> None:
    """Find the inputs of a corpus that activate units most, and show them in context."""
    chosen = numbers(units.units, "--units")
    with quiet():
        from caseback.decode.vocabulary.activating import activating_inputs
        from caseback.reports.unit import unit_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.unit import print_units

        model = model_of(of)
        collected = activating_inputs(
            model,
            corpus,
            site.site,
            layer=layer.layer,
            units=chosen,
            top=top.top,
            per_row=per_row,
            skip=skip.skip,
            length=stored.max_length,
            batch=batch.batch_size,
            store=stored.store,
            progress=True,
        )
        # of all, those whose strongest token stands out most from the unit's own spread
        shown = chosen or collected.outstanding(_MOST_SHOWN)
        document = unit_document(model, collected, shown, top=top.top)
    answer(
        output,
        document,
        text=lambda: print_units(document, ranges=ranges),
        page=lambda path: write_page(document, path),
    )
