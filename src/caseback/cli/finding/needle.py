"""`caseback needle`: what a model finds again in long prompts, and which heads bring it."""

from typing import Annotated

from typer import Option

from caseback.cli.answer import answer
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Draws, OfModel, Output, Sample, Threshold
from caseback.cli.with_options import with_options


@with_options
def needle(
    of: OfModel = OfModel(),
    length: Annotated[
        list[int] | None, Option(min=1, help="Tokens of a prompt; may be repeated. By default 60, 120 and 240.")
    ] = None,
    needle_depth: Annotated[
        list[float] | None,
        Option(
            min=0, max=1, help="Share of sentences before the needle; may be repeated. By default 0 to 1 by quarters."
        ),
    ] = None,
    distractors: Annotated[int, Option(min=1, max=3, help="Other people whose words are told too.")] = 1,
    threshold: Threshold = Threshold(0.1).worded(threshold="From which score on a head counts."),
    draws: Draws = Draws(10).worded(draws="Random sets of as many other heads."),
    sample: Sample = Sample(count=8).worded(
        count="Prompts for each length and depth: half to find heads, half to judge."
    ),
    output: Output = Output(),
) -> None:
    """Needle in a haystack: recall by length and depth, and the heads that bring the word, silenced too."""
    with quiet():
        from caseback.behaviors import needle_test
        from caseback.reports.concepts.needle import needle_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.needle import print_needle

        model = model_of(of)
        places = {"lengths": length, **({} if needle_depth is None else {"depths": needle_depth})}
        places |= {"distractors": distractors, "count": sample.count, "seed": sample.seed, "progress": True}
        past = 0.1 if threshold.threshold is None else threshold.threshold
        document = needle_document(model, needle_test(model, threshold=past, draws=draws.draws, **places))
    answer(output, document, text=lambda: print_needle(document), page=lambda path: write_page(document, path))
