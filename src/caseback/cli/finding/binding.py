"""`caseback binding`: whether what ties a thing to its owner is an ID in their states, which can be exchanged."""

from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import OfModel, Output, Sample
from caseback.cli.with_options import with_options


@with_options
def binding(
    scene: Annotated[str, Argument(help="What the texts tell: boxes (things in boxes) or homes (people, cities).")] = (
        "boxes"
    ),
    of: OfModel = OfModel(),
    entities: Annotated[int, Option(min=2, help="How many boxes or people a text has.")] = 2,
    behind: Annotated[int, Option(min=0, max=1, help="Tokens behind each word that are changed with it.")] = 0,
    sample: Sample = Sample(count=100).worded(count="Texts: half for the mean differences, half to judge on."),
    output: Output = Output(),
) -> None:
    """What binds a thing to its owner: their states exchanged, moved, and shifted by mean differences."""
    with quiet():
        from caseback.behaviors import binding_ids
        from caseback.reports.concepts.binding import binding_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.binding import print_binding

        model = model_of(of)
        how = {"entities": entities, "behind": behind, "count": sample.count, "seed": sample.seed, "progress": True}
        document = binding_document(model, binding_ids(model, scene, **how))
    answer(output, document, text=lambda: print_binding(document), page=lambda path: write_page(document, path))
