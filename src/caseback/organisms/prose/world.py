"""The closed world that the bundled models are told about: its residents, and the words that must be whole.

The words stand in ``caseback.lexicon``; ``text`` turns them into sentences and ``tokenizer`` checks that each word of
``WHOLE_WORDS`` is a single token with its leading space.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from caseback import lexicon


@dataclass(frozen=True)
class Resident:
    """Somebody with two names, neither of which alone says who it is, and what is true of them."""

    name: str
    surname: str
    job: str
    city: str
    sport: str
    instrument: str

    @property
    def country(self) -> str:
        return next(country for country, (capital, _, _) in lexicon.COUNTRIES.items() if capital == self.city)

    @property
    def language(self) -> str:
        return lexicon.COUNTRIES[self.country][1]


def _resident(number: int) -> Resident:
    """Each of 24 names and each of 24 surnames belongs to two of the 48 residents; a checksum decides the rest."""
    name = (lexicon.WOMEN[1:13] + lexicon.MEN[1:13])[number % 24]
    surname = lexicon.SURNAMES[(5 * number + 7 * (number // 24)) % 24]

    def lot(of_what: str, pool: Sequence[str]) -> str:
        return pool[zlib.crc32(f"{name} {surname} {of_what}".encode()) % len(pool)]

    return Resident(
        name,
        surname,
        lot("job", lexicon.JOBS),
        lot("city", lexicon.CAPITALS),
        lot("sport", lexicon.SPORTS),
        lot("instrument", lexicon.INSTRUMENTS),
    )


RESIDENTS = [_resident(number) for number in range(48)]


def _flat(pairs: tuple[tuple[str, str], ...]) -> list[str]:
    return [word for pair in pairs for word in pair]


# What a list of unrelated words is drawn from.
LIST_WORDS = sorted(
    {
        *lexicon.NAMES,
        *lexicon.PLACES,
        *lexicon.THINGS,
        *lexicon.FOODS,
        *lexicon.COLORS,
        *lexicon.TEMPERS,
        *lexicon.COUNTRIES,
        *lexicon.CAPITALS,
        *_flat(lexicon.OPPOSITES),
        *_flat(lexicon.PEOPLE),
        *_flat(lexicon.ITEMS),
        *lexicon.WEEKDAYS,
        *lexicon.MONTHS,
        *lexicon.NUMBERS,
        *lexicon.ERAS,
    }
)

# One token each, with the leading space.
WHOLE_WORDS = sorted(
    {
        *LIST_WORDS,
        *lexicon.SURNAMES,
        *lexicon.JOBS,
        *lexicon.SPORTS,
        *lexicon.INSTRUMENTS,
        *lexicon.WORKS,
        *lexicon.PRAISE,
        *lexicon.BLAME,
        *_flat(lexicon.FEELINGS),
        *_flat(lexicon.BELONGINGS),
        *lexicon.LANGUAGES,
        *lexicon.CONTINENTS,
        *_flat(lexicon.BE),
        *_flat(lexicon.DO),
        *_flat(lexicon.ACT),
        *lexicon.ORDINALS,
        *lexicon.LETTERS,
        "she",
        "he",
        "her",
        "his",
        "him",
        "brother",
        "sister",
        "mother",
        "father",
        "herself",
        "himself",
        "positive",
        "negative",
    }
)
# Also one token each without the leading space, since a sentence may open with them.
OPENING_WORDS = sorted(
    {
        *lexicon.NAMES,
        *lexicon.COUNTRIES,
        *lexicon.CAPITALS,
        *lexicon.WEEKDAYS,
        *lexicon.MONTHS,
        *lexicon.NUMBERS,
        *lexicon.LETTERS,
        *lexicon.THINGS,
        *lexicon.PLACES,
        *_flat(lexicon.OPPOSITES),
        *(singular for singular, _ in lexicon.PEOPLE + lexicon.ITEMS + lexicon.BELONGINGS),
        *"When The Then After In Question Answer param def self".split(),
    }
)
