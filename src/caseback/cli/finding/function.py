"""`caseback function`: which layer's MLP adds what turns a word into what a function makes of it."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Draws, OfModel, Output, Sample
from caseback.cli.with_options import with_options


@with_options
def function(
    pairs: Annotated[
        str, Argument(help="antonym, capital … or a JSON file of pairs with input and output.", show_default=False)
    ],
    of: OfModel = OfModel(),
    factor: Annotated[float, Option(help="What is added, in multiples of what the MLP wrote.")] = 1.0,
    draws: Draws = Draws(5).worded(draws="Random vectors of each layer's norm."),
    sample: Sample = Sample(count=20).worded(count="Prompts that vectors are of, and as many to judge them on."),
    output: Output = Output(),
) -> None:
    """What each layer's MLP writes where a function is applied, added to prompts that only copy the word."""
    with quiet():
        from caseback.behaviors import argument_function
        from caseback.reports.behavior import function_words
        from caseback.reports.concepts.argument_functions import argument_function_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.argument_functions import print_argument_function

        model = model_of(of)
        how = {"factor": factor, "draws": draws.draws, "prompts": sample.count, "seed": sample.seed, "progress": True}
        added = argument_function(model, function_words(model, pairs), **how)
        document = argument_function_document(model, added, Path(pairs).stem)
    answer(
        output, document, text=lambda: print_argument_function(document), page=lambda path: write_page(document, path)
    )
