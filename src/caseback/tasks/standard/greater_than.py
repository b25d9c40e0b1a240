"""Greater-than: a span of years must end later than it began. (PRIMER 5.4.5)

    The war lasted from the year 1732 to the year 17  ->  33 … 99, not 00 … 32

    PD = sum over y > YY of p(y) - sum over y <= YY of p(y)

The counterfactual begins in the year 01, so that nearly every year is later.
"""

from __future__ import annotations

import random

from caseback.lexicon import WIDE_ERAS
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task
from caseback.tasks.text import fill

TEMPLATE = "The {noun} lasted from the year {century}{year} to the year {again}"


def greater_than(*, centuries: tuple[int, ...] = tuple(range(11, 20)), years: tuple[int, int] = (2, 98)) -> Task:
    """Greater-than between two years of one century.

    Positions: ``noun``, ``century``, ``year`` (its last two digits), ``again``, ``end``. The metric is the probability
    of all later years of the century minus that of its other years.

    Parameters
    ----------
    centuries
        The first two digits that are drawn from.
    years
        The first and the last year within the century in which the span may begin.

    References
    ----------
    Hanna et al. 2023, "How does GPT-2 compute greater-than?".

    Examples
    --------
    >>> pair = greater_than().draw(random.Random(0), {"nouns": ["war"]})
    >>> len(pair.target) + len(pair.foil)
    100
    """

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        noun, century, year = rng.choice(fillers["nouns"]), rng.choice(centuries), rng.randint(*years)
        words = {"noun": noun, "century": str(century), "again": str(century)}
        return Pair.of(
            fill(TEMPLATE, year=f"{year:02}", **words),
            fill(TEMPLATE, year="01", **words),
            [f"{later:02}" for later in range(year + 1, 100)],
            [f"{earlier:02}" for earlier in range(year + 1)],
            group=str(century),
        )

    return Task(
        "greater_than",
        "A span of years within a century: all later years over all others.",
        draw,
        {"nouns": WIDE_ERAS},
        measure="prob_diff",
        entry="5.4.5",
        citation="Hanna et al. 2023",
    )
