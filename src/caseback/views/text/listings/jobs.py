"""Jobs in the terminal: how far each is, and what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caseback.reports.document import checked, drawn_from

__all__ = ["print_jobs"]


@checked
@drawn_from("a row of jobs", "Status.as_dict")
def print_jobs(jobs: Sequence[dict[str, Any]]) -> None:
    """Print how far jobs are."""
    for job in jobs:
        share = job["size_done"] / job["size"] if job["size"] else 1.0
        amount = "" if job["unit"] == "shard" else f", {job['size_done']:,} of {job['size']:,} {job['unit']}s"
        print(f"{job['folder']}: {job['kind']}, {job['done']} of {job['shards']} shards ({share:.0%}{amount})")
        for claim in job["claimed"]:
            where = f"process {claim['pid']} of {claim['host']}"
            print(f"  shard {claim['shard']}: {where} works on it, heard of {claim['seconds']} s ago")
        for claim in job["stale"]:
            print(f"  shard {claim['shard']}: given up by process {claim['pid']} of {claim['host']}, free to be taken")
        for failure in job["failed"]:
            print(f"  shard {failure['shard']} failed: {failure['error']}")
