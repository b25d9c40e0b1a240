"""`caseback tasks`: the field's standard prompts; one task's examples with their places, answers and metric."""

from typing import Annotated, Any

from typer import Argument

from caseback.cli.answer import answer
from caseback.cli.listing.remembered import remembered
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
    from caseback.views.text.listings.tasks import print_task_examples, print_tasks

    if name is None:
        rows = remembered("tasks", _every)
        answer(output, rows, text=lambda: print_tasks(rows))
        return
    with quiet():
        from caseback.reports.tables.tasks import task_examples
        from caseback.tasks import get

        task = get(name)
        shown = task_examples(model_of(of), task, sample.count, seed=sample.seed) | {"model": of.model}
    answer(output, shown, text=lambda: print_task_examples(shown))


def _every() -> list[dict[str, Any]]:
    with quiet():
        from caseback.reports.tables.tasks import task_rows

        return task_rows()
