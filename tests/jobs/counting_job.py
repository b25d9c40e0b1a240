"""A small job for tests of the contract: shard i gives i squared, slowly if asked, or fails."""

import os
import time
from pathlib import Path

import torch

from caseback.errors import CasebackError
from caseback.jobs.job import Job, Plan


def plan(n=8, **options):
    return Plan("squares", {"power": 2, **options}, {"model": "m"}, [f"inputs of {i}" for i in range(n)], [1] * n)


class Squares:
    """Work that any process can be sent; ``mark`` is a folder in which each shard that is computed leaves a file."""

    def __init__(self, mark=None, seconds=0.0, fails=(), dies=()):
        self.mark, self.seconds, self.fails, self.dies = mark, seconds, fails, dies

    def __call__(self, job, shard):
        if self.mark is not None:
            (Path(self.mark) / f"{shard}-{os.getpid()}-{time.monotonic_ns()}").touch()
        time.sleep(self.seconds)
        if shard in self.fails:
            raise CasebackError(f"shard {shard} is not to be")
        if shard in self.dies:
            os.kill(os.getpid(), 9)
        return {"x": torch.full((3,), float(shard) ** 2)}


def contents(folder):
    """Every file of a result, by name: what must not depend on who computed it."""
    return {path.name: path.read_bytes() for path in sorted((Path(folder) / "shards").glob("*.safetensors"))}


def finished(folder, work=None):
    """A job that was done without any trouble."""
    from caseback.jobs.working import work_on

    job = Job.begin(folder, plan())
    work_on(job, work or Squares())
    return job
