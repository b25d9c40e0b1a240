"""Greater-than: a span of years must end later than it began. (PRIMER 5.4.5)

    The war lasted from the year 1732 to the year 17  ->  33 … 99, not 00 … 32

    PD = sum over y > YY of p(y) - sum over y <= YY of p(y)

The counterfactual begins in the year 01, so that nearly every year is later. Where a tokenizer cuts years into digits,
the next token is only the decade; spans then begin in a year that ends in 9, so that the years of a later decade are
exactly the later years:

    The war lasted from the year 1739 to the year 17  ->  4 … 9, not 0 … 3          single digits
    The war lasted from the year 1739 to the year     ->  174 … 179, not 170 … 173  three digits
"""

from __future__ import annotations

import random

from caseback.lexicon import WIDE_ERAS
from caseback.tasks.digits import cutting, year_form
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task
from caseback.tasks.text import fill

WHOLE = "The {noun} lasted from the year {year} to the year{again}"  # where century and decade are one token
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
        The first and the last year within the century in which the span may begin; where a tokenizer cuts years
        into digits, one between them that ends in 9.

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
        form = year_form(fillers["cut"][0]) if "cut" in fillers else "pairs"
        if form in ("digits", "triples"):
            return _by_decade(rng, fillers, form, rng.choice(centuries), years)
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
        {"nouns": WIDE_ERAS, "cut": cutting},
        measure="prob_diff",
        entry="5.4.5",
        citation="Hanna et al. 2023",
    )


def _by_decade(rng: random.Random, fillers: Fillers, form: str, century: int, years: tuple[int, int]) -> Pair:
    """A pair whose answer is the decade, as a digit or as the year's first three."""
    noun = rng.choice(fillers["nouns"])
    # 1 … 8: both sides have an answer, and the counterfactual's year 09 is another one
    decade = rng.choice([d for d in range(1, 9) if years[0] <= 10 * d + 9 <= years[1]] or range(1, 9))
    if form == "triples":
        space = " " if fillers["cut"][0](f" {century}39")[0] == " " else ""
        clean, corrupt = (fill(WHOLE, noun=noun, year=f"{century}{d}9", again=space) for d in (decade, 0))
        lead = f"{century}" if space else f" {century}"
    else:
        words = {"noun": noun, "century": str(century), "again": str(century)}
        clean, corrupt = (fill(TEMPLATE, year=f"{d}9", **words) for d in (decade, 0))
        lead = ""
    answers = [f"{lead}{d}" for d in range(10)]
    return Pair.of(clean, corrupt, answers[decade + 1 :], answers[: decade + 1], group=str(century))
