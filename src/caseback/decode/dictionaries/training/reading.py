"""What a model has read of a pool so far, in files beside a training's checkpoint, so that an interrupt costs seconds.

    TRAINING-pool-NUMBER-PIECE        the states that some batches had, one piece after another

A pool is minutes of a model's work on a CPU. Its pieces are written while it is read, and go once the training is
behind it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from caseback.errors import LoadError
from caseback.jobs.checkpoint import Checkpoint

EVERY = 30.0  # seconds of reading between pieces


class Reading:
    """The pieces of one training's pools.

    Parameters
    ----------
    training
        The training's checkpoint.
    part
        Which of several models that read for it.
    """

    def __init__(self, training: Checkpoint, part: str = ""):
        assert training.path is not None
        self.path, self.depends_on, self.part = training.path, dict(training.depends_on), part

    def pieces(self, number: int, how: Mapping[str, Any]) -> tuple[int, list[dict[str, Tensor]]]:
        """How many batches of a pool are on disk, and what they gave; of another reading, or damaged, none."""
        batches, pieces = 0, []
        while (saved := self._read(number, len(pieces), how)) is not None:
            batches += int(saved.state["batches"])
            pieces.append(dict(saved.tensors))
        return batches, pieces

    def write(self, number: int, piece: int, how: Mapping[str, Any], batches: int, tensors: dict[str, Tensor]) -> None:
        """Keep what some batches gave."""
        self._file(number, piece, how).write(tensors, batches=batches)

    def forget(self, before: int | None = None) -> None:
        """Remove the pieces of pools that the training is behind, or all."""
        start = f"{self.path.name}-pool{self.part}-"
        for file in self.path.parent.glob(f"{_literal(start)}*"):
            number = file.name.removeprefix(start).partition("-")[0]
            if number.isdecimal() and (before is None or int(number) < before):
                file.unlink(missing_ok=True)

    def _file(self, number: int, piece: int, how: Mapping[str, Any]) -> Checkpoint:
        path = Path(f"{self.path}-pool{self.part}-{number}-{piece}")
        return Checkpoint(path, {**self.depends_on, "reading": dict(how)}, what="piece of a pool")

    def _read(self, number: int, piece: int, how: Mapping[str, Any]) -> Any:
        file = self._file(number, piece, how)
        try:
            return file.read()
        except LoadError:
            assert file.path is not None
            os.unlink(file.path)  # it is read again
            return None


class Batches:
    """States batch by batch, as they come, with what is on disk of them first.

    Parameters
    ----------
    reading
        Where pieces are; None keeps none.
    number, how
        Of the pool, and what its batches depend on beside the training.
    device
        Where states go that come from a file.
    """

    def __init__(self, reading: Reading | None, number: int, how: Mapping[str, Any], device: torch.device):
        self.reading, self.number, self.how = reading, number, how
        self.there, self.pieces = (0, []) if reading is None else reading.pieces(number, how)
        self.parts = [{name: x.to(device) for name, x in piece.items()} for piece in self.pieces]
        self.new = self.written = len(self.parts)  # parts, and pieces, that are on disk
        self.since = time.monotonic()

    def add(self, part: dict[str, Tensor]) -> None:
        """Take what a batch gave."""
        self.parts.append(part)
        if self.reading is not None and time.monotonic() - self.since > EVERY:
            self._write()

    def all(self) -> dict[str, Tensor]:
        """Everything together, by name."""
        if self.written and self.reading is not None and self.new < len(self.parts):
            self._write()  # its steps may be interrupted too
        return {name: torch.cat([part[name] for part in self.parts]) for name in self.parts[0]}

    def _write(self) -> None:
        assert self.reading is not None
        some = self.parts[self.new :]
        joined = {name: torch.cat([part[name] for part in some]) for name in some[0]}
        self.reading.write(self.number, self.written, self.how, len(some), joined)
        self.new, self.written, self.since = len(self.parts), self.written + 1, time.monotonic()


def _literal(text: str) -> str:
    """A name as a pattern that matches nothing else."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)
