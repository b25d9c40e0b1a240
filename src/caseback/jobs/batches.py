"""Work in batches that are halved once where memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from caseback.jobs.warned import warn

T = TypeVar("T")


class BatchHalved(UserWarning):
    """Memory ran out, and the work went on with half as much at a time."""


class Batches:
    """How many units are worked on at a time, in one place for all loops of one job.

    Attributes
    ----------
    at_once
        Units in a batch now.
    unit
        What they are, in the plural.
    """

    def __init__(self, at_once: int, unit: str):
        self.at_once, self.unit, self._halved = at_once, unit, False

    def over(self, count: int, work: Callable[[slice], T]) -> Iterator[tuple[slice, T]]:
        """Work through so many units, and give each batch with what came of it.

        Where memory runs out the batch is halved, once for all loops, with a warning; a second time the error stands.
        What ``work`` leaves behind when it fails must not matter: the first half of its units comes again.

        Raises
        ------
        torch.OutOfMemoryError
            For a batch of one, or after the batch was halved.

        Examples
        --------
        >>> [result for _, result in Batches(2, "prompts").over(5, lambda part: part.stop - part.start)]
        [2, 2, 1]
        """
        start = 0
        while start < count:
            part = slice(start, min(start + self.at_once, count))
            done = self._tried(work, part)
            if done is None:
                _give_back()
                continue
            yield part, done[0]
            start = part.stop

    def _tried(self, work: Callable[[slice], T], part: slice) -> tuple[T] | None:
        """What came of a batch; None where it did not fit. The error's frames, which hold tensors, end here."""
        size = part.stop - part.start
        try:
            return (work(part),)
        except torch.OutOfMemoryError:
            if self._halved or size == 1:
                raise
        self._halve(size)
        return None

    def _halve(self, tried: int) -> None:
        self._halved, self.at_once = True, tried // 2
        warn(
            f"out of memory with {tried} {self.unit} at a time: going on with {self.at_once}. To begin with fewer, see "
            "caseback.jobs.budget.override",
            BatchHalved,
            stacklevel=4,
        )


def _give_back() -> None:
    """Return what is no longer used to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
