"""The organisms that can be trained again, by name.

To add one, write its training function and give it an entry here; ``caseback organisms train`` finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from caseback.errors import CasebackError

Tell = Callable[[int, int, str], None]


class Trainer(Protocol):
    """Trains into a folder, or goes on where an interrupted run with the same arguments stopped.

    ``steps`` is the length of the schedule, ``None`` for the organism's own; ``stop_at`` ends before
    its end. ``tell`` is called with the steps done, the length of the schedule and a message.
    """

    def __call__(
        self, out: Path, seed: int, steps: int | None, stop_at: int | None, threads: int, tell: Tell
    ) -> None: ...


def _meadow(out: Path, seed: int, steps: int | None, stop_at: int | None, threads: int, tell: Tell) -> None:
    import torch

    from caseback.organisms.train import STEPS, train

    torch.set_num_threads(threads)
    train(out, seed, STEPS if steps is None else steps, stop_at, tell)


def _grokking(out: Path, seed: int, steps: int | None, stop_at: int | None, threads: int, tell: Tell) -> None:
    import torch

    from caseback.organisms.modular.train import STEPS, train

    torch.set_num_threads(threads)
    train(out, seed, STEPS if steps is None else steps, stop_at, tell)


def _induction(out: Path, seed: int, steps: int | None, stop_at: int | None, threads: int, tell: Tell) -> None:
    import torch

    from caseback.organisms.repeats.train import STEPS, train

    torch.set_num_threads(threads)
    train(out, seed, STEPS if steps is None else steps, stop_at, tell)


def _spread(out: Path, seed: int, steps: int | None, stop_at: int | None, threads: int, tell: Tell) -> None:
    import torch

    from caseback.organisms.board.train import STEPS, train

    torch.set_num_threads(threads)
    train(out, seed, STEPS if steps is None else steps, stop_at, tell)


TRAINERS: dict[str, Trainer] = {
    "grokking": _grokking,
    "induction": _induction,
    "meadow": _meadow,
    "spread": _spread,
}


def trainer(name: str) -> Trainer:
    """The function that trains an organism.

    Parameters
    ----------
    name
        A key of ``TRAINERS``.

    Raises
    ------
    CasebackError
        If no organism of this name can be trained.

    Examples
    --------
    >>> trainer("prairie")
    Traceback (most recent call last):
    caseback.errors.CasebackError: No organism called 'prairie' can be trained: expected one of grokking, ...
    """
    if name not in TRAINERS:
        raise CasebackError(f"No organism called {name!r} can be trained: expected one of {', '.join(TRAINERS)}.")
    return TRAINERS[name]
