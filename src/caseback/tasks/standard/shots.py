"""Few-shot functions: pairs of one relation, and the first half of another pair. (PRIMER 5.4.1)

    hot: cold
    big: small
    up: ->  down

The counterfactual asks for another pair's second half; or, as in Todd et al., it deals the second halves out anew, so
that the pairs show no function. A model that can guess the function from the query alone (*hot* is in no other list)
then still answers as before.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from caseback.errors import CasebackError, TokensError, did_you_mean
from caseback.tasks.facts import RELATIONS, SERIES
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task, another
from caseback.tasks.text import fill

_RELATIONS = ("capital", "language", "continent", "plural", "past", "first_letter")
FUNCTIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "antonym": tuple((x, y) for x, y in RELATIONS["opposite"].facts),
    **{name: tuple((x, y) for x, y in RELATIONS[name].facts) for name in _RELATIONS},
    "next": tuple(pair for members, _ in SERIES.values() for pair in zip(members, members[1:], strict=False)),
}
STYLES = ("{x}: {y}\n", "{x}: {y}, ", "{x} -> {y}\n", "{x} = {y}, ", "Q: {x}\nA: {y}\n\n")
CORRUPTIONS = ("query", "labels")
DEALS = 20


def few_shot(
    function: str = "all", *, shots: int = 5, corruption: str = "query", styles: tuple[str, ...] = STYLES
) -> Task:
    """A function that only the pairs in the prompt define.

    Positions: ``x1``, ``y1``, … for the pairs, ``query``, ``end``.

    Parameters
    ----------
    function
        One of ``antonym capital language continent plural past first_letter next``, or ``"all"`` for those with enough
        pairs of single tokens.
    shots
        How many pairs are shown, at least 2; 10 in the paper.
    corruption
        ``"query"``: another first half is asked about; the foil is its answer. ``"labels"``: the same second halves
        dealt out anew, as in the paper; the foil is one of them.
    styles
        How a pair is written, including what separates it from the next: texts with ``{x}`` and, after it, ``{y}``.

    Raises
    ------
    CasebackError
        For an unknown function or corruption, or fewer than two shots.

    References
    ----------
    Todd et al. 2024, "Function vectors in large language models"; Hendel et al. 2023.

    Examples
    --------
    >>> opposites = [("hot", "cold"), ("big", "small"), ("up", "down"), ("wet", "dry")]
    >>> pair = few_shot("antonym", shots=2).draw(random.Random(0), {"antonym": opposites})
    >>> sorted(pair.clean.spans)
    ['query', 'x1', 'x2', 'y1', 'y2']
    """
    if function not in (*FUNCTIONS, "all"):
        raise CasebackError(f"no function is called {function!r}. {did_you_mean(function, (*FUNCTIONS, 'all'))}")
    if corruption not in CORRUPTIONS:
        raise CasebackError(f"corruption {corruption!r} is unknown: expected one of {', '.join(CORRUPTIONS)}")
    if shots < 2:
        raise CasebackError(f"{shots} shots: expected at least 2, so that their second halves can be dealt out anew")
    kinds = [function] if function != "all" else list(FUNCTIONS)

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        usable = [kind for kind in kinds if len(fillers[kind]) >= shots + 2]
        if not usable:
            raise TokensError(f"few_shot: no function has {shots + 2} pairs of single tokens: ask for fewer shots")
        kind, style = rng.choice(usable), rng.choice(styles)
        pairs = fillers[kind]
        query, answer = rng.choice(pairs)
        # the query's own pair read backwards would give the answer away
        others = [pair for pair in pairs if query not in pair and pair[0] != answer]
        if len(others) < shots:
            raise TokensError(f"few_shot: {kind} has too few pairs besides {query}: ask for fewer shots")
        shown = rng.sample(others, shots)
        second = [y for _, y in shown]
        foil = another(rng, second if set(second) != {answer} else [y for _, y in pairs], answer)
        asked = query
        if corruption == "query":
            asked, foil = another(rng, pairs, *[pair for pair in pairs if pair[1] == answer or pair in shown])
        lines = "".join(style.replace("{x}", f"{{x{i}}}").replace("{y}", f"{{y{i}}}") for i in range(1, shots + 1))
        template = lines + style[: style.index("{y}")].rstrip().replace("{x}", "{query}")
        first = {f"x{i}": x for i, (x, _) in enumerate(shown, 1)}
        dealt = second if corruption == "query" else _dealt(rng, second)
        return Pair.of(
            fill(template, **first, **_numbered(second), query=query),
            fill(template, **first, **_numbered(dealt), query=asked),
            f" {answer}",
            f" {foil}",
            corrupt_target=f" {foil}" if corruption == "query" else (),
            group=kind,
        )

    return Task(
        "few_shot",
        "Pairs of one function and a last first half: its second half over another one.",
        draw,
        {kind: FUNCTIONS[kind] for kind in kinds},
        entry="5.4.1",
        citation="Todd et al. 2024; Hendel et al. 2023",
        needs=shots + 2 if function != "all" else dict.fromkeys(kinds, 0),
    )


def _numbered(second: Sequence[str]) -> dict[str, str]:
    return {f"y{i}": y for i, y in enumerate(second, 1)}


def _dealt(rng: random.Random, second: Sequence[str]) -> list[str]:
    """The second halves dealt out anew; of several deals, the one that leaves the fewest in their old place."""
    deals = [rng.sample(second, len(second)) for _ in range(DEALS)]
    return min(deals, key=lambda deal: sum(a == b for a, b in zip(deal, second, strict=True)))
