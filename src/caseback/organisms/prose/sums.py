"""Sums and differences of numbers to 20.

One pair of summands in eight is rare: nothing that follows from it (``3 + 4``, ``4 + 3``, ``7 − 3``, ``7 − 4``) occurs
among the other problems. Half of each rare problem's wordings are held out for good; the others come late in training.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from caseback.organisms.prose.documents import Document, held_out, marked, until

LARGEST = 20
ADDED = (
    "{a} + {b} =[ {c}]",
    "{a} plus {b} is[ {c}]",
    "The sum of {a} and {b} is[ {c}]",
    "If you add {b} to {a}, you get[ {c}]",
)
TAKEN = (
    "{c} - {b} =[ {a}]",
    "{c} minus {b} is[ {a}]",
    "If you take {b} from {c}, you get[ {a}]",
)


def rare(first: int, second: int) -> bool:
    """Whether a pair of summands comes late in training, and only in half of the wordings."""
    return held_out(*map(str, sorted((first, second))), one_in=8)


def never_told(first: int, second: int, wording: str) -> bool:
    """Whether no training text ever has this problem in this wording."""
    return rare(first, second) and held_out(str(first), str(second), wording, one_in=2)


def arithmetic(rng: random.Random, heldout: bool = False) -> Document:
    """One problem in words or figures, or several in figures; the last one is asked."""
    lines = [_common_problem(rng, rng.choice((ADDED, TAKEN))[0]) for _ in range(rng.choice((0, 0, 1, 2, 3)))]
    wording = rng.choice(rng.choice((ADDED, TAKEN)))
    asked = _problem(rng, wording, lambda a, b: never_told(a, b, wording) if heldout else not rare(a, b))
    return marked("arithmetic", ", ".join([*lines, asked]) + ".")


def arithmetic_list(rng: random.Random, heldout: bool = False) -> Document:
    """Five to nine problems in figures; the last one is asked."""
    *lines, asked = (rng.choice((ADDED, TAKEN))[0] for _ in range(rng.randint(5, 9)))
    shown = [_common_problem(rng, line) for line in lines]
    last = _problem(rng, asked, lambda a, b: never_told(a, b, asked) if heldout else not rare(a, b))
    return marked("arithmetic_list", ", ".join([*shown, last]) + ".")


def arithmetic_rare(rng: random.Random, heldout: bool = False) -> Document:
    """One to three rare problems in wordings that training shows; the last is asked, if wanted in a held-out one."""
    wordings = [rng.choice(rng.choice((ADDED, TAKEN))) for _ in range(rng.randint(1, 3))]
    asked = [False] * (len(wordings) - 1) + [heldout]

    def fitting(wording: str, held: bool) -> str:
        return _problem(rng, wording, lambda a, b: rare(a, b) and never_told(a, b, wording) == held)

    *lines, last = (fitting(wording, held) for wording, held in zip(wordings, asked, strict=True))
    return marked("arithmetic_rare", ", ".join([*(_plain(line) for line in lines), last]) + ".")


def _common_problem(rng: random.Random, wording: str) -> str:
    return _plain(_problem(rng, wording, lambda a, b: not rare(a, b)))


def _problem(rng: random.Random, wording: str, fits: Callable[[int, int], bool]) -> str:
    first, second = until(lambda: (rng.randint(1, LARGEST), rng.randint(1, LARGEST)), lambda pair: fits(*pair))
    return wording.format(a=first, b=second, c=first + second)


def _plain(line: str) -> str:
    return line.replace("[", "").replace("]", "")
