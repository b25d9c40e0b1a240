"""A worker: it walks the shards of a job, does those that nobody has in hand, and waits for the others.

Any number of them may walk the same folder: this process, processes that it starts, other terminals and machines.
"""

from __future__ import annotations

import os
import random
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from caseback.errors import CasebackError
from caseback.jobs.job import Job
from caseback.jobs.progress import progress_bar
from caseback.jobs.safe_files import write_json

Work = Callable[[Job, int], Mapping[str, Tensor]]
"""What computes a shard's result: of the job, the shard's number, and what it holds itself (a model, say)."""

POLL = 0.2
_bar: ContextVar[tqdm | None] = ContextVar("caseback_bar", default=None)


def advance(amount: int) -> None:
    """Say that so much of the shard in hand is done, for the bar of the worker that has it."""
    bar = _bar.get()
    if bar is not None:
        bar.update(amount)


@contextmanager
def _moving(bar: tqdm) -> Iterator[None]:
    token = _bar.set(bar)
    try:
        yield
    finally:
        _bar.reset(token)


def bar_of(job: Job, *, show: bool) -> tqdm:
    """A bar over all of a job, whoever does it."""
    return progress_bar(show=show, what=job.plan.kind, total=job.whole_size, unit=job.plan.unit, unit_scale=True)


def work_on(job: Job, work: Work, *, worker: int = 0, workers: int = 1, progress: bool = False) -> None:
    """Do shards until none is left: it waits for those in others' hands, and takes over those that are given up.

    Parameters
    ----------
    job
        The job.
    work
        What computes a shard.
    worker, workers
        Which of how many this is: it begins its walk there, so that workers rarely want the same shard.
    progress
        Show a progress bar, of all workers' shards.

    Raises
    ------
    CasebackError
        Whatever the work raised; it is also written down in the folder, and what was done stays.
    """
    first = worker * len(job) // max(1, workers)
    bar = bar_of(job, show=progress)
    left = [*range(first, len(job)), *range(first)]
    with threads(job.plan.threads):
        while left:
            before = len(left)
            for shard in list(left):
                began = bar.n
                with _moving(bar):
                    done = job.done(shard) or do_shard(job, work, shard)
                if done:
                    left.remove(shard)
                    bar.update(job.size(shard) - (bar.n - began))
            if len(left) == before:
                time.sleep(POLL)
    bar.close()


def do_shard(job: Job, work: Work, shard: int) -> bool:
    """Do one shard, unless another worker has it in hand; whether it is done now."""
    with job.claims.taken(shard) as mine:
        if not mine:
            return False
        if job.done(shard):
            return True
        try:
            with seeded_by(job.digest(shard)):
                result = work(job, shard)
            job.keep(shard, result)
        except Exception as error:
            _write_failure(job, shard, error)
            raise
    return True


def _write_failure(job: Job, shard: int, error: Exception) -> None:
    known = isinstance(error, CasebackError)
    record = {
        "error": str(error) if known else f"{type(error).__name__}: {error}",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "traceback": [] if known else traceback.format_exception(error),
    }
    try:
        write_json(job.failure_path(shard), record)
    except OSError:  # a full disk: the error itself says so
        return


def threads_of(folder: str | Path, given: int | None = None, workers: int = 1) -> int:
    """How many threads each worker of a job computes with: as many as when its folder was made, for the same bytes.

    Parameters
    ----------
    folder
        The job's; it need not be there.
    given, workers
        For a new job as many as are given, else this process's, shared out among the workers.

    Raises
    ------
    LoadError
        For a damaged job.
    """
    if os.path.exists(Path(folder) / "job.json"):
        return Job.open(folder).plan.threads
    return max(1, torch.get_num_threads() // max(1, workers)) if given is None else given


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded_by(digest: str) -> Iterator[None]:
    """Let the global random states of torch, NumPy and Python start from a digest meanwhile.

    So that work which draws from them does not depend on what its process did before.

    Examples
    --------
    >>> def draw():
    ...     with seeded_by("c0ffee"):
    ...         return random.random(), float(torch.rand(())), float(np.random.rand())
    >>> draw() == draw()
    True
    """
    seed = int(digest[:8], 16)
    plain, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(arrays)


def place_among_workers(worker: int | None = None, workers: int | None = None) -> tuple[int, int]:
    """Which worker this is, and of how many: as given, or as torchrun and SLURM say in the environment.

    Examples
    --------
    >>> place_among_workers(1, 4)
    (1, 4)
    """
    texts = {name: os.environ.get(name, "") for name in ("RANK", "SLURM_PROCID", "WORLD_SIZE", "SLURM_NTASKS")}
    known = {name: int(text) for name, text in texts.items() if text.isdecimal()}
    own = known.get("RANK", known.get("SLURM_PROCID", 0)) if worker is None else worker
    count = known.get("WORLD_SIZE", known.get("SLURM_NTASKS", own + 1)) if workers is None else workers
    return min(own, max(0, count - 1)), max(1, count)
