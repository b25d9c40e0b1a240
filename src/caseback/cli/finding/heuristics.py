"""`caseback heuristics`: which rules about operands a model's neurons follow, and sums without them."""

from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Draws, OfModel, Output, Sample, Threshold, Top
from caseback.cli.with_options import with_options


@with_options
def heuristics(
    template: Annotated[str, Argument(help="A prompt with {a} and {b}, which the result follows.")] = "{a} + {b} =",
    of: OfModel = OfModel(),
    operator: Annotated[str, Option(help="What the prompt asks for: +, - or *.")] = "+",
    largest: Annotated[int, Option(min=5, help="Operands are 1 to this; all pairs are run.")] = 20,
    top: Top = Top(200).worded(top="Important neurons of a layer."),
    threshold: Threshold = Threshold(0.6).worded(threshold="The least share of a neuron's strongest pairs."),
    draws: Draws = Draws(10).worded(draws="Random sets of as many other important neurons."),
    sample: Sample = Sample(count=50).worded(count="Prompts on which important neurons are chosen."),
    output: Output = Output(),
) -> None:
    """A bag of heuristics: neurons that fire for rules about operands, and sums without those of a rule."""
    with quiet():
        from caseback.behaviors import arithmetic_heuristics
        from caseback.reports.concepts.heuristics import heuristics_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.heuristics import print_heuristics

        model = model_of(of)
        how = {"operator": operator, "largest": largest, "top": top.top, "draws": draws.draws}
        how |= {"count": sample.count, "seed": sample.seed, "progress": True}
        past = 0.6 if threshold.threshold is None else threshold.threshold
        document = heuristics_document(model, arithmetic_heuristics(model, template, threshold=past, **how))
    answer(output, document, text=lambda: print_heuristics(document), page=lambda path: write_page(document, path))
