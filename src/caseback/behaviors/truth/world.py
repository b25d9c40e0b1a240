"""Statements of the closed world that the bundled models are told about: its countries, words and residents.

Every word is one token of meadow's, and meadow was told nearly all of these facts (some wordings are held out).
"""

from __future__ import annotations

from collections.abc import Sequence

from caseback import lexicon
from caseback.errors import CasebackError, did_you_mean
from caseback.model.arguments import checked
from caseback.organisms.prose.world import RESIDENTS
from caseback.tasks.prompts import Pair
from caseback.tasks.statements import Statements, statements_of
from caseback.tasks.text import fill

_COUNTRIES = tuple(lexicon.COUNTRIES.items())
_PEOPLE = tuple((f"{one.name} {one.surname}", one) for one in RESIDENTS)
FACTS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "capital": ("The capital of {subject} is", tuple((name, about[0]) for name, about in _COUNTRIES)),
    "language": ("The language of {subject} is", tuple((name, about[1]) for name, about in _COUNTRIES)),
    "continent": ("{subject} is a country in", tuple((name, about[2]) for name, about in _COUNTRIES)),
    "country": ("The city of {subject} is in", tuple((about[0], name) for name, about in _COUNTRIES)),
    "opposite": (
        "The opposite of {subject} is",
        tuple(pair for one, other in lexicon.OPPOSITES for pair in ((one, other), (other, one))),
    ),
    "plural": ("The plural of {subject} is", tuple(lexicon.PEOPLE + lexicon.ITEMS + lexicon.BELONGINGS)),
    "job": ("{subject} is a", tuple((name, one.job) for name, one in _PEOPLE)),
    "home": ("The home of {subject} is in", tuple((name, one.city) for name, one in _PEOPLE)),
    "sport": ("The favorite sport of {subject} is", tuple((name, one.sport) for name, one in _PEOPLE)),
    "instrument": ("The instrument of {subject} is the", tuple((name, one.instrument) for name, one in _PEOPLE)),
    "tongue": ("The language spoken around {subject} is", tuple((name, one.language) for name, one in _PEOPLE)),
}
"""Topics: a wording, and subjects with their answers."""


@checked
def world_facts(topics: Sequence[str] | None = None) -> list[Pair]:
    """Give facts of the closed world as prompts with an answer.

    Parameters
    ----------
    topics
        Names of ``FACTS``; all by default.

    Raises
    ------
    CasebackError
        For a topic that is unknown.

    Examples
    --------
    >>> pair = world_facts(["capital"])[0]
    >>> pair.clean.text, pair.target, pair.group
    ('The capital of France is', (' Paris',), 'capital')
    """
    pairs: list[Pair] = []
    for topic in FACTS if topics is None else topics:
        if topic not in FACTS:
            raise CasebackError(f"no topic is called {topic!r}. {did_you_mean(topic, FACTS, most=len(FACTS))}")
        wording, facts = FACTS[topic]
        for subject, answer in facts:
            text = fill(wording, subject=subject)
            pairs.append(Pair.of(text, text, f" {answer}", group=topic))
    return pairs


@checked
def world_statements(
    topics: Sequence[str] | None = None, *, each: int = 40, negated: bool = True, seed: int = 0
) -> Statements:
    """Make true and false statements of the closed world.

    Parameters
    ----------
    topics
        Names of ``FACTS``; all by default.
    each, negated, seed
        As for ``statements_of``.

    Returns
    -------
    Statements
        All of subjects that ``meadow`` knows.

    Raises
    ------
    CasebackError
        As ``world_facts`` and ``statements_of``.

    Examples
    --------
    >>> world_statements(["capital"], each=10)
    Statements(40 of 1 topics; 20 true, 20 negated)
    """
    return statements_of(world_facts(topics), each=each, negated=negated, seed=seed)
