"""An atlas in a given time: how much text, how many random rows, which looks and which proofs fit.

    tokens of text <= .3 T r       in sizes that double: 1,000, 2,000, 4,000 ..., so that an interrupted pass goes on
    random rows    <= .2 T r / (tokens of a row in all streams),    8 at least and 64 at most
    looks          the cheapest first, by ``costs``, in half of what is then left; in all of it without proofs
    proofs         the cheapest first, in what is left, shared alike by the experiments to come

T the budget in seconds, r tokens a second of a batch of random tokens with all tables of text. Whatever is next is
planned with what is left by then, and an estimate is multiplied by

    (1 + seconds truly spent on estimated work) / (1 + seconds estimated for it)

What does not fit is left out, by name and with what it would take. An experiment that its share is too short for is run
with fewer sets of units, then with fewer candidates, then left out. What a proof takes is that of its first set of
units with the clean run, and for each further set what one more costs in a batch of a few.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from caseback.behaviors.synthetic import FOLDS
from caseback.errors import CasebackError
from caseback.model.running.model import Model
from caseback.stream.collect import collect
from caseback.stream.packing import row_length
from caseback.stream.tables.registry import TableLike
from caseback.tasks.standard.repeats import ordinary_tokens

OF_TEXT, OF_ROWS, OF_PROOFS, OF_CARDS = 0.3, 0.2, 0.5, 0.2
TRIAL, FEW = 8, 2  # rows whose time is taken; the few alone where they take more than a fiftieth of the time
SHORT = 0.02
ALL_ROWS = 64  # of random tokens, where there is no budget
STEP = 1000
ROW_TOKENS = 100  # of a row of random tokens, about
TOKENS_A_WORD = 1.5
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smh]?)")


def seconds_of(budget: float | str) -> float:
    """A time as seconds: ``"90"`` or ``"90s"``, ``"5m"``, ``"1h"``.

    Raises
    ------
    CasebackError
        For what is no time, or none at all.

    Examples
    --------
    >>> seconds_of("5m"), seconds_of("1.5h"), seconds_of(30)
    (300.0, 5400.0, 30.0)
    """
    given = _TIME.fullmatch(str(budget).strip().lower())
    seconds = float(given[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[given[2]] if given else 0.0
    if not 0 < seconds < 10**8:
        raise CasebackError(f"a budget of {budget!r}: expected a time above 0, such as '90s', '5m' or '1h'")
    return seconds


@dataclass
class Within:
    """What fits a time, and what was left out for it.

    Attributes
    ----------
    seconds
        The budget.
    left_out
        What was left out, in words.
    clock
        What tells the time, in seconds.
    speed
        Operations a second of a product of matrices; None before it was measured.
    """

    seconds: float
    left_out: list[str] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic
    speed: float | None = None

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._estimated = self._spent = 1.0

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self.seconds - (self.clock() - self._began))

    def takes(self, operations: float) -> float:
        """Seconds that so many operations take, by what others took."""
        return operations / (self.speed or 1.0) * self._spent / self._estimated

    def learn(self, operations: float, seconds: float) -> None:
        """Note what operations truly took."""
        self._estimated += operations / (self.speed or 1.0)
        self._spent += seconds

    def fits(self, what: str, seconds: float) -> bool:
        """Whether something fits what is left; noted by its name where it does not."""
        if seconds <= self.left:
            return True
        self.left_out.append(f"{what} (about {duration(seconds)})")
        return False

    def tokens(self, rate: float, n_tokens: int | None) -> int:
        """How much text is read, at a rate of so many tokens a second."""
        fits = max(1.0, min(OF_TEXT * self.seconds, self.left) * rate / STEP)
        size = STEP * 2 ** int(np.log2(fits))
        return size if n_tokens is None else min(n_tokens, size)

    def end_of_text(self, n_read: int, limit: int, n_tokens: int | None) -> None:
        """Note that a text was cut: so many tokens were read of a limit that the time set, not the caller."""
        if n_read >= limit and limit != n_tokens:
            self.left_out.append(f"text beyond {limit:,} tokens")

    def rows(self, rate: float, row_tokens: int) -> int:
        """How many rows of random tokens, of which all streams together have so many tokens."""
        room = min(OF_ROWS * self.seconds, self.left)
        fits = int(room * rate / max(1, row_tokens)) // FOLDS * FOLDS
        rows = min(ALL_ROWS, max(FOLDS, fits))
        if rows < ALL_ROWS:
            self.left_out.append(f"{ALL_ROWS - rows} of {ALL_ROWS} rows of random tokens")
        return rows

    def sentences(self, rate: float, words: Sequence[int]) -> int:
        """How many sentences of so many words each are read."""
        room = min(OF_ROWS * self.seconds, self.left) * rate
        fit = int(np.searchsorted(np.cumsum(words) * TOKENS_A_WORD, room, side="right"))
        if fit < len(words):
            self.left_out.append(f"{len(words) - fit} of {len(words)} sentences")
        return fit


def duration(seconds: float) -> str:
    """Seconds in words, of two digits.

    Examples
    --------
    >>> duration(0.04), duration(7.21), duration(200.0)
    ('0.04 s', '7.2 s', '200 s')
    """
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def tokens_a_second(model: Model, tables: Sequence[TableLike], length: int | None, within: Within) -> float:
    """The speed of a batch of random tokens, which is thrown away, behind a first one that warms the model up."""
    ids = ordinary_tokens(model)
    width = row_length(model, length)
    rows = np.random.default_rng(0).choice(ids, (TRIAL, width)).tolist()
    collect(model, rows[:1], tables, bos=False, length=length)
    took = 0.0
    for many in (FEW, TRIAL):
        if took > SHORT * within.seconds:
            break
        began = within.clock()
        collect(model, rows[:many], tables, bos=False, length=length)
        took, read = max(1e-9, within.clock() - began), many * width
    return read / took


def row_tokens(needs: Mapping[str, Sequence[str]], text: str) -> int:
    """About how many tokens the rows of random tokens have, for one row of each stream."""
    return ROW_TOKENS * sum(bool(tables) for stream, tables in needs.items() if stream != text)
