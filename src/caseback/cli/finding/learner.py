"""`caseback learner`: which learner a model's predictions from examples follow: gradient descent, neighbors ..."""

from typing import Annotated

from typer import Option

from caseback.cli.answer import answer
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Draws, OfModel, Output, Sample
from caseback.cli.with_options import with_options


@with_options
def learner(
    of: OfModel = OfModel(),
    features: Annotated[int, Option(min=1, max=8, help="Digits that each example's output is a function of.")] = 2,
    pairs: Annotated[int, Option(min=1, help="Examples in a prompt, each an input and its output.")] = 12,
    draws: Draws = Draws(1000).worded(draws="Times that predictions are dealt out to other prompts."),
    sample: Sample = Sample(count=80).worded(count="Prompts, 12 or more; half of them are judged on."),
    output: Output = Output(),
) -> None:
    """Prompts of digits and what a linear function makes of them: whose predictions are nearest to the model's."""
    with quiet():
        from caseback.behaviors import in_context_learner
        from caseback.reports.concepts.in_context_learner import in_context_learner_document
        from caseback.tasks.regression import digit_regression
        from caseback.views.page.kinds import write_page
        from caseback.views.text.concepts.in_context_learner import print_in_context_learner

        model = model_of(of)
        asked = digit_regression(sample.count, pairs, features, sample.seed)
        compared = in_context_learner(model, asked, draws=draws.draws, seed=sample.seed)
        task = f"a linear function of {features} digit{'s' if features > 1 else ''}"
        document = in_context_learner_document(model, compared, task)
    answer(
        output, document, text=lambda: print_in_context_learner(document), page=lambda path: write_page(document, path)
    )
