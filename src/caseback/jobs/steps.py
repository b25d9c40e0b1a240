"""Work in named steps, of which later ones may be left undone: for want of time, or because somebody stopped it.

    start step k  if  elapsed + units_k * (elapsed / units so far) <= within

The first step is always done. A step whose cost is known in units (runs of a model, say) is not begun where the steps
before it show that it would not end in time; what is left undone is listed, with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Step", "Steps"]


@dataclass(frozen=True)
class Step:
    """A part of the work.

    Attributes
    ----------
    name
        What it is called, in words.
    units
        How much work it is, in a unit that all steps share.
    work
        What is called.
    """

    name: str
    units: float
    work: Callable[[], Any]


@dataclass
class Steps:
    """Steps that are done one after another while there is time.

    Attributes
    ----------
    steps
        In the order in which they are wanted.
    within
        Seconds in which all of it should end; None for as long as it takes, 0 for the first step alone.
    clock
        What tells the time, in seconds.
    results
        What the steps gave, by name.
    left_out
        Why a step was not done, by name.

    Examples
    --------
    >>> steps = Steps([Step("one", 1, lambda: 10), Step("two", 5, lambda: 20)], within=0)
    >>> [step.name for step in steps.run()], steps.results, list(steps.left_out)
    (['one'], {'one': 10}, ['two'])
    """

    steps: Sequence[Step]
    within: float | None = None
    clock: Callable[[], float] = time.monotonic
    results: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def run(self) -> Iterator[Step]:
        """Do the steps; each is yielded when it is done.

        An interrupt (Ctrl-C) during a later step than the first ends the work, and what was done before it stays.
        """
        began, units = self.clock(), 0.0
        for at, step in enumerate(self.steps):
            elapsed = self.clock() - began
            reason = None if at == 0 or self.within is None else self._too_long(step, elapsed, units)
            if reason is not None:
                self.left_out[step.name] = reason
                continue
            try:
                self.results[step.name] = step.work()
            except KeyboardInterrupt:
                if at == 0:
                    raise
                self.left_out |= {later.name: "interrupted" for later in self.steps[at:]}
                return
            units += step.units
            yield step

    def _too_long(self, step: Step, elapsed: float, units: float) -> str | None:
        assert self.within is not None
        needs = step.units * elapsed / units if units else 0.0
        return None if self.within and elapsed + needs <= self.within else f"about {_duration(needs)}"

    @property
    def interrupted(self) -> bool:
        """Whether somebody stopped it."""
        return "interrupted" in self.left_out.values()


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"
