"""How far a job is, as plain data: each shard is done, in somebody's hands, given up, failed, or waits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from caseback.errors import LoadError
from caseback.jobs.job import Job


@dataclass(frozen=True)
class Status:
    """How far a job is.

    Attributes
    ----------
    folder, kind, unit
        Which job, of what kind, and what its work is counted in.
    shards, done
        How many shards there are, and how many are done.
    size, size_done
        How much work that is.
    claimed, stale
        Who works on which shard, and whose claims were given up.
    failed
        Why which shard could not be done.
    """

    folder: str
    kind: str
    unit: str
    shards: int
    done: int
    size: int
    size_done: int
    claimed: list[dict[str, Any]]
    stale: list[dict[str, Any]]
    failed: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def status_of(job: Job) -> Status:
    """How far a job is.

    Examples
    --------
    >>> import tempfile
    >>> from caseback.jobs.job import Plan
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     status = status_of(Job.begin(folder, Plan("squares", {}, {}, ["a", "b"])))
    >>> status.done, status.shards
    (0, 2)
    """
    left = set(job.undone())
    done = [shard for shard in range(len(job)) if shard not in left]
    held: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for shard in sorted(left):
        claim = job.claims.of(shard)
        if claim is not None:
            worker = {"host": claim.host, "pid": claim.pid, "seconds": round(claim.age)}
            held[claim.stale].append({"shard": shard, **worker})
    failed = [{"shard": shard, "error": failure.get("error")} for shard, failure in job.failures()]
    sizes = [job.size(shard) for shard in range(len(job))]
    return Status(
        str(job.folder),
        job.plan.kind,
        job.plan.unit,
        len(job),
        len(done),
        sum(sizes),
        sum(sizes[shard] for shard in done),
        held[False],
        held[True],
        failed,
    )


def statuses(folder: str | Path) -> Iterator[Status]:
    """Of the job in a folder, or of the jobs in the folders that lie in it.

    Raises
    ------
    LoadError
        Where there is no job.
    """
    at = Path(folder)
    try:
        inside = [at] if os.path.exists(at / "job.json") else sorted(path.parent for path in at.glob("*/job.json"))
    except (OSError, ValueError) as error:
        raise LoadError(f"{str(folder)!r} cannot be read: {error}") from None
    if not inside:
        raise LoadError(f"{str(folder)!r} holds no job: expected a job.json in it, or in a folder in it")
    for one in inside:
        yield status_of(Job.open(one))
