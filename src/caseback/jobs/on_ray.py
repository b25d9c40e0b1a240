"""A job's shards as tasks of a Ray cluster: Ray says where, and the job's contract makes whatever dies harmless.

Each actor holds the work (and so the model) and does one shard at a time into the job's folder, which all nodes must
see. A node may be lost in the middle of a shard: another actor does it, and its result is the same bytes.
"""

from __future__ import annotations

import socket
import time
from typing import Any

import torch

from caseback.errors import CasebackError
from caseback.jobs.job import Job
from caseback.jobs.working import POLL, Work, bar_of, do_shard, threads

RAY = "ray"


def launch_on_ray(job: Job, work: Work, *, address: str = RAY, workers: int = 0, progress: bool = False) -> None:
    """Do all that is left of a job as Ray tasks.

    Parameters
    ----------
    job
        The job; its folder must be seen from every node.
    work
        What computes a shard: what can be pickled.
    address
        ``"ray"`` for the cluster that ``RAY_ADDRESS`` or this machine knows, else a new one on this machine; or an
        address, such as ``"ray://head:10001"``.
    workers
        How many actors at most; 0 for as many as there is room for.
    progress
        Show a progress bar.

    Raises
    ------
    CasebackError
        Where Ray is not installed, no cluster answers, or a shard could not be done.
    """
    ray = _ray()
    mine = _connect(ray, address)
    try:
        _do(ray, job, work, workers, progress)
    finally:
        if mine:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise CasebackError("on='ray' needs Ray: pip install 'caseback[scale]'") from None
    return ray


def _connect(ray: Any, address: str) -> bool:
    """Join a cluster, or start one; whether it is for us to leave."""
    if ray.is_initialized():
        return False
    options = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address != RAY:
            _expect_answer(address)
            ray.init(address=address, **options)
        else:
            try:
                ray.init(address="auto", **options)
            except ConnectionError:
                ray.init(**options)
    except (OSError, ValueError, RuntimeError) as error:
        raise CasebackError(f"no Ray cluster answers at {address!r}: {error}") from None
    return True


def _expect_answer(address: str) -> None:
    """Refuse an address at which nobody listens: Ray itself would ask for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("expected ray, or an address such as ray://head:10001")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
        return


def _do(ray: Any, job: Job, work: Work, workers: int, progress: bool) -> None:
    left = job.undone()
    bar = bar_of(job, show=progress)
    bar.update(sum(job.size(shard) for shard in set(range(len(job))) - set(left)))
    resources = ray.cluster_resources()
    on_gpu = resources.get("GPU", 0) >= 1
    room = int(resources["GPU"] if on_gpu else max(1, resources.get("CPU", 1) // job.plan.threads))
    held = ray.put(work)
    kind = ray.remote(num_cpus=job.plan.threads, num_gpus=int(on_gpu))(_Actor)
    idle = [kind.remote(job, held) for _ in range(min(workers or room, room, len(left)))]
    running: dict[Any, tuple[int, Any]] = {}
    try:
        while left or running:
            while left and idle:
                shard, actor = left.pop(0), idle.pop()
                running[actor.do.remote(shard)] = shard, actor
            (ended,), _ = ray.wait(list(running), num_returns=1)
            shard, actor = running.pop(ended)
            try:
                done = ray.get(ended)
            except ray.exceptions.RayTaskError as error:
                raise CasebackError(f"shard {shard} could not be done: {error.cause or error}") from error
            except ray.exceptions.RayError:  # its worker or node is gone
                left.append(shard)
                if not idle and not running:
                    idle.append(kind.remote(job, held))
                continue
            idle.append(actor)
            if done:
                bar.update(job.size(shard))
            else:  # in the hands of another worker, which may be gone
                left.append(shard)
                time.sleep(POLL)
    finally:
        bar.close()
        for actor in [*idle, *(actor for _, actor in running.values())]:
            ray.kill(actor)


class _Actor:
    """A worker of the cluster, which holds the model."""

    def __init__(self, job: Job, work: Any):
        self.job = job
        self.work = work.to(torch.device("cuda")) if torch.cuda.is_available() and hasattr(work, "to") else work

    def do(self, shard: int) -> bool:
        with threads(self.job.plan.threads):
            return self.job.done(shard) or do_shard(self.job, self.work, shard)
