"""Claims: which worker has which shard in its hands, as files that can be made by one of them only.

    claims/00003    made exclusively, with the worker's host and process; its time renewed every ``RENEWED`` seconds

A claim that was not renewed for ``STALE`` seconds, or whose process is gone from this machine, may be taken. Two
workers that come to the same shard all the same (a stopped machine that wakes up) write the same bytes: claims save
time, and nothing hangs on them.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caseback.jobs.json_text import parse_json

RENEWED = 10.0
STALE = 60.0


@dataclass(frozen=True)
class Claim:
    """Who holds a shard.

    Attributes
    ----------
    host, pid
        The worker's machine and process.
    age
        Seconds since it was last renewed, by the clock of the file system.
    """

    host: str
    pid: int
    age: float

    @property
    def stale(self) -> bool:
        """Whether it may be taken: not renewed, or its process is gone."""
        return self.age > STALE or (self.host == socket.gethostname() and not _alive(self.pid))


class Claims:
    """The claims in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}"

    def of(self, shard: int) -> Claim | None:
        """Who holds a shard; None where nobody does."""
        path = self.path(shard)
        try:
            age = self._now() - path.stat().st_mtime
            held: Any = parse_json(path.read_text(encoding="utf-8"))
            return Claim(str(held["host"]), int(held["pid"]), age)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return Claim("", 0, age)  # one that is just being written, or was cut short

    def _now(self) -> float:
        """The time on the file system's clock, which may not be this machine's."""
        probe = self.folder / f".now-{secrets.token_hex(8)}"
        try:
            probe.touch()
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    @contextmanager
    def taken(self, shard: int) -> Iterator[bool]:
        """Hold a shard while the block runs; False where another worker has it.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     claims = Claims(Path(folder))
        ...     with claims.taken(0) as mine, claims.taken(0) as again:
        ...         mine, again
        (True, False)
        """
        if not self._take(shard):
            yield False
            return
        over = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(shard, over), daemon=True)
        renewing.start()
        try:
            yield True
        finally:
            over.set()
            renewing.join()
            self.path(shard).unlink(missing_ok=True)

    def _take(self, shard: int) -> bool:
        path = self.path(shard)
        held = self.of(shard)
        if held is not None:
            if not held.stale:
                return False
            # moved aside before a new one is made: of several that want it, one moves it
            with suppress(OSError):
                aside = path.with_name(f".stale-{secrets.token_hex(8)}")
                path.rename(aside)
                aside.unlink()
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
            return True
        except FileExistsError:
            return False

    def _renew(self, shard: int, over: threading.Event) -> None:
        while not over.wait(RENEWED):
            with suppress(OSError):
                os.utime(self.path(shard))


def _alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return not _zombie(pid)


def _zombie(pid: int) -> bool:
    """Whether it has ended, and only its parent has not looked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False
