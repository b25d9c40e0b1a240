"""An atlas in a given time: how much text, how many random rows and which proofs fit, from the speed of a first batch.

    tokens of text <= .4 T r       in sizes that double: 1,000, 2,000, 4,000 ..., so that an interrupted pass goes on
    random rows    <= .3 T r / (tokens of a row in all streams),    8 at least and 64 at most
    proofs         what is left of T, shared alike by the experiments to come

T the budget in seconds, r tokens a second of a batch of random tokens with all tables of text. An experiment that its
share is too short for is run with fewer sets of units, then with fewer candidates, then left out. What a proof takes is
that of its first set of units with the clean run, and for each further set what one more costs in a batch of a few.
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

OF_TEXT, OF_ROWS = 0.4, 0.3
TRIAL = 8  # rows whose time is taken
ALL_ROWS = 64  # of random tokens, where there is no budget
STEP = 1000
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
    """

    seconds: float
    left_out: list[str] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self.seconds - (self.clock() - self._began))

    def tokens(self, rate: float, n_tokens: int | None) -> int:
        """How much text is read, at a rate of so many tokens a second."""
        fits = max(1.0, OF_TEXT * self.seconds * rate / STEP)
        size = STEP * 2 ** int(np.log2(fits))
        return size if n_tokens is None else min(n_tokens, size)

    def end_of_text(self, n_read: int, limit: int, n_tokens: int | None) -> None:
        """Note that a text was cut: so many tokens were read of a limit that the time set, not the caller."""
        if n_read >= limit and limit != n_tokens:
            self.left_out.append(f"text beyond {limit:,} tokens")

    def rows(self, rate: float, row_tokens: int) -> int:
        """How many rows of random tokens, of which all streams together have so many tokens."""
        fits = int(OF_ROWS * self.seconds * rate / max(1, row_tokens)) // FOLDS * FOLDS
        rows = min(ALL_ROWS, max(FOLDS, fits))
        if rows < ALL_ROWS:
            self.left_out.append(f"{ALL_ROWS - rows} of {ALL_ROWS} rows of random tokens")
        return rows


def tokens_a_second(
    model: Model, tables: Sequence[TableLike], length: int | None, clock: Callable[[], float] = time.monotonic
) -> float:
    """The speed of a batch of random tokens, which is thrown away, behind a first one that warms the model up."""
    ids = ordinary_tokens(model)
    width = row_length(model, length)
    rows = np.random.default_rng(0).choice(ids, (TRIAL, width)).tolist()
    collect(model, rows[:1], tables, bos=False, length=length)
    began = clock()
    collect(model, rows, tables, bos=False, length=length)
    return TRIAL * width / max(1e-9, clock() - began)


def row_tokens(needs: Mapping[str, Sequence[str]], text: str) -> int:
    """About how many tokens the rows of random tokens have, for one row of each stream."""
    return 100 * sum(bool(tables) for stream, tables in needs.items() if stream != text)
