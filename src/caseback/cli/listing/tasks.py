"""`caseback tasks`: the field's standard prompts; one task's examples with their places, answers and metric."""

from typing import Annotated

from typer import Argument

from caseback.cli.answer import answer
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Json, OfModel, Sample
from caseback.cli.with_options import with_options


@with_options
def tasks(
    name: Annotated[
        str | None, Argument(help="The task to show examples of; all are listed without.", show_default=False)
    ] = None,
    of: OfModel = OfModel(),
    sample: Sample = Sample(count=5).worded(count="How many examples are drawn and measured."),
    output: Json = Json(),
) -> None:
    """List the tasks, or show one: clean and corrupt prompts, named positions, answers, the model's metric."""
    with quiet():
        from caseback.reports.tables.tasks import task_examples, task_rows
        from caseback.tasks import get
        from caseback.views.text.listings.tasks import print_task_examples, print_tasks

        if name is None:
            rows = task_rows()
            answer(output, rows, text=lambda: print_tasks(rows))
            return
        task = get(name)
        shown = task_examples(model_of(of), task, sample.count, seed=sample.seed) | {"model": of.model}
    answer(output, shown, text=lambda: print_task_examples(shown))
