"""Where a job's shards are done: in this process, in processes that it starts, or on a Ray cluster.

    launch(job, work)                     here, one shard after another
    launch(job, work, workers=4)          four processes of this machine, one a GPU where there are several
    launch(job, work, on="ray")           tasks of a Ray cluster: one that runs, or one of this machine
    caseback work FOLDER                  from anywhere that sees the folder, beside all of these

All do the same shards by the same contract (``job``), so they may be mixed, and it does not matter which of them dies.
"""

from __future__ import annotations

import multiprocessing.connection
import os
import pickle
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
import torch.multiprocessing
from torch import Tensor

from caseback.errors import CasebackError, LoadError
from caseback.jobs.job import Job
from caseback.jobs.on_ray import launch_on_ray
from caseback.jobs.working import Work, bar_of, work_on

HERE = "here"
WATCH = 1.0  # seconds between two looks at what is done: each opens a file for every shard that is left


def expect_here(workers: int, on: str, *, option: str = "folder") -> None:
    """Refuse workers where no folder is given that they could share.

    Raises
    ------
    CasebackError
        Naming the option that gives one.
    """
    if workers != 1 or on != HERE:
        raise CasebackError(f"other workers need a folder: give {option}=")


def launch(job: Job, work: Work, *, workers: int = 1, on: str = HERE, progress: bool = False) -> None:
    """Do all that is left of a job.

    Parameters
    ----------
    job
        The job.
    work
        What computes a shard: what can be pickled, where other processes are to do it.
    workers
        How many processes; 1 is this one. On Ray how many actors at most, as many as there is room for with 0.
    on
        ``"here"``, or ``"ray"`` or a Ray address such as ``"ray://head:10001"``.
    progress
        Show one bar over all workers.

    Raises
    ------
    CasebackError
        Where a shard could not be done, with its error; the others stay done, and the same call goes on.
    """
    if workers < (0 if on != HERE else 1):
        raise CasebackError(f"{workers} workers: expected 1 or more")
    if on != HERE:
        launch_on_ray(job, work, address=on, workers=workers, progress=progress)
    elif workers == 1:
        work_on(job, work, progress=progress)
    elif job.undone():
        _launch_processes(job, work, min(workers, len(job)), progress)


def results(
    job: Job, work: Work, *, workers: int = 1, on: str = HERE, progress: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Each shard's result in the order of the shards, once all are done; one whose bytes changed is done again.

    Parameters
    ----------
    job, work, workers, on, progress
        As for ``launch``.

    Examples
    --------
    >>> import tempfile
    >>> from caseback.jobs.job import Plan
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     job = Job.begin(folder, Plan("squares", {}, {}, ["a", "b"]))
    ...     [float(result["x"]) for result in results(job, lambda job, shard: {"x": torch.tensor(shard**2)})]
    [0.0, 1.0]
    """
    launch(job, work, workers=workers, on=on, progress=progress)
    for shard in range(len(job)):
        while True:
            try:
                result = job.read(shard)
                break
            except LoadError:
                _drop_unreadable(job, shard)
                launch(job, work, workers=workers, on=on, progress=progress)
        yield result


def _drop_unreadable(job: Job, first: int) -> None:
    """Take away the results from a shard on that are not what was written: they count as not done."""
    for shard in range(first, len(job)):
        try:
            job.read(shard)
        except LoadError as error:
            try:
                job.path(shard).unlink(missing_ok=True)
            except OSError:  # a folder in its place, say
                raise error from None


def _launch_processes(job: Job, work: Work, workers: int, progress: bool) -> None:
    _allow_open_files()
    context = torch.multiprocessing.get_context("spawn")
    started: list[Any] = []
    try:
        for n in range(workers):
            process = context.Process(target=_worker, args=(job, work, n, workers, os.getpid()), daemon=True)
            try:
                process.start()
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise CasebackError(f"the work cannot be sent to other processes ({error}): use workers=1") from None
            started.append(process)
        _watch(job, started, progress)
    finally:
        for process in started:
            if process.is_alive():
                process.terminate()
        for process in started:
            process.join()


def _watch(job: Job, started: list[Any], progress: bool) -> None:
    """Wait for the processes, showing what is done; refuse in the end what is not."""
    bar = bar_of(job, show=progress)
    left = set(range(len(job)))
    while any(process.is_alive() for process in started):
        done = {shard for shard in left if job.done(shard)}
        bar.update(sum(map(job.size, done)))
        left -= done
        multiprocessing.connection.wait([process.sentinel for process in started if process.is_alive()], WATCH)
    bar.update(sum(map(job.size, left - set(job.undone()))))
    bar.close()
    expect_done(job, {f"process {n}": process.exitcode for n, process in enumerate(started)})


def expect_done(job: Job, ended: Mapping[str, int | None] | None = None) -> None:
    """Refuse a job of which shards are left, with the error of the first that failed.

    Raises
    ------
    CasebackError
    """
    left = job.undone()
    if not left:
        return
    of = f"{len(left)} of {len(job)} shards are not done"
    failed = next(job.failures(), None)
    if failed is not None:
        raise CasebackError(f"{of}; shard {failed[0]}: {failed[1].get('error')}")
    ends = {name: code for name, code in (ended or {}).items() if code is not None and code < 0}
    killed = [f"{name} was killed by {signal.Signals(-code).name}" for name, code in ends.items()]
    raise CasebackError(f"{of}{': ' + ', '.join(killed) if killed else ''}; the same call goes on")


def _worker(job: Job, work: Any, number: int, workers: int, parent: int) -> None:
    """A process that was started for a job; it ends with the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    if torch.cuda.is_available() and hasattr(work, "to"):
        work = work.to(torch.device("cuda", number % torch.cuda.device_count()))
    with suppress(CasebackError):  # it is written down in the folder
        work_on(job, _While(work, parent), worker=number, workers=workers)


class _While:
    """Work that stops where the process that wanted it is gone."""

    def __init__(self, work: Work, parent: int):
        self.work, self.parent = work, parent

    def __call__(self, job: Job, shard: int) -> Mapping[str, Any]:
        if os.getppid() != self.parent:
            raise SystemExit
        return self.work(job, shard)


def _allow_open_files() -> None:
    """A tensor that is shared with another process takes an open file: allow as many as the system does."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
