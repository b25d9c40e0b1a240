"""Successor: what is the next member of an ordered series? (PRIMER 5.1.8)

    Monday, Tuesday, Wednesday, ->  Thursday

The counterfactual begins elsewhere in the same series, so that another member is next.
"""

from __future__ import annotations

import random

from caseback.errors import CasebackError
from caseback.tasks.facts import SERIES
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task, another
from caseback.tasks.text import fill

JOINS = (", ", " ")


def successor(*, series: str = "all", shown: int = 3) -> Task:
    """The next member of an ordered series.

    Positions: ``word1``, ``word2``, … up to ``shown``, ``end``. The foil is what comes next in the counterfactual.

    Parameters
    ----------
    series
        ``"day"``, ``"month"`` (both start over), ``"number"`` (words), ``"letter"``, ``"figure"``, or ``"all"``.
    shown
        How many members are shown, at least 1.

    Raises
    ------
    CasebackError
        For an unknown series, or more members shown than it has.

    References
    ----------
    Gould et al. 2024, "Successor heads".

    Examples
    --------
    >>> pair = successor(series="day").draw(random.Random(0), {"day": SERIES["day"][0]})
    >>> len(pair.clean.text.split()), pair.target != pair.foil
    (3, True)
    """
    if series not in (*SERIES, "all"):
        raise CasebackError(f"series {series!r} is unknown: expected one of {', '.join(SERIES)}, all")
    kinds = [series] if series != "all" else list(SERIES)
    most = min(len(SERIES[kind][0]) for kind in kinds) - 2
    if not 1 <= shown <= most:
        raise CasebackError(f"{shown} members shown: expected 1 to {most} of {', '.join(kinds)}")

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        kind = rng.choice(kinds)
        members, starts_over = fillers[kind], SERIES[kind][1]
        starts = range(len(members) if starts_over else len(members) - shown)
        begin = rng.choice(starts)
        elsewhere = another(rng, starts, begin)
        join = rng.choice(JOINS)
        template = join.join(f"{{word{i + 1}}}" for i in range(shown)) + join.rstrip()
        clean, corrupt = ([members[(at + i) % len(members)] for i in range(shown + 1)] for at in (begin, elsewhere))
        return Pair.of(
            fill(template, **{f"word{i + 1}": word for i, word in enumerate(clean[:-1])}),
            fill(template, **{f"word{i + 1}": word for i, word in enumerate(corrupt[:-1])}),
            f" {clean[-1]}",
            f" {corrupt[-1]}",
            corrupt_target=f" {corrupt[-1]}",
            group=kind,
        )

    return Task(
        "successor",
        "Members of an ordered series: the next one over that of another place in the series.",
        draw,
        {kind: SERIES[kind][0] for kind in kinds},
        entry="5.1.8",
        citation="Gould et al. 2024",
        needs=shown + 2,
        # any number of tokens: leaving a member out would leave a hole in the series
        free=tuple(kinds),
    )
