"""`caseback work`: join a job that was begun elsewhere, from any terminal or machine that sees its folder."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument

from caseback.cli.loading import model_of, quiet
from caseback.cli.options import AmongWorkers, OfModel
from caseback.cli.with_options import with_options
from caseback.errors import LoadError

# What a kind of job works with. A job names its kind, and never what is imported.
KINDS = {
    "collect": ("caseback.stream.collect", "work_of"),
    "activating": ("caseback.decode.vocabulary.activating.collect", "work_of"),
    "sweep": ("caseback.model.sweeping.sweep_job", "work_of"),
}
RETRAINING = "retraining"
"""The kind whose work is a function of the user's, which no folder holds."""


@with_options
def work(
    folder: Annotated[Path, Argument(help="The job's folder.", show_default=False)],
    of: OfModel = OfModel(),
    among: AmongWorkers = AmongWorkers(),
) -> None:
    """Do shards of a job beside whoever else does, until none is left."""
    from caseback.jobs.job import Job

    job = Job.open(folder)
    if job.plan.kind == RETRAINING:
        raise LoadError(
            f"{str(folder)!r} is a retraining, by a Python function that its folder does not hold: join it by the "
            "call that began it, made again in another process with the same folder="
        )
    if job.plan.kind not in KINDS:
        raise LoadError(f"{str(folder)!r} is a job of the kind {job.plan.kind!r}, expected {' or '.join(KINDS)}")
    with quiet():
        from caseback.jobs.working import place_among_workers, work_on

        number, count = place_among_workers(among.worker, among.workers)
        module, function = KINDS[job.plan.kind]
        own = getattr(import_module(module), function)(job, model_of(of))
        work_on(job, own, worker=number, workers=count, progress=True)
    typer.echo(f"all {len(job)} shards in {folder} are done; the command that began the job puts them together")
