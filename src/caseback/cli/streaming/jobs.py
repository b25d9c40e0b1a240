"""`caseback jobs`: how far a job is: shards done, in somebody's hands, given up, failed."""

from pathlib import Path
from typing import Annotated

from typer import Argument

from caseback.cli.answer import answer
from caseback.cli.options import Json
from caseback.cli.with_options import with_options


@with_options
def jobs(
    folder: Annotated[Path, Argument(help="A job's folder, or a folder of such folders.", show_default=False)],
    output: Json = Json(),
) -> None:
    """Tell how far jobs are: what is done, who works on what, and what failed."""
    from caseback.jobs.status import statuses
    from caseback.views.text.listings.jobs import print_jobs

    each = [status.as_dict() for status in statuses(folder)]
    answer(output, each, text=lambda: print_jobs(each))
