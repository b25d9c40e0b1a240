"""Pairs of words that stand in a relation: subject and attribute, a word and its opposite, one and several.

``RELATIONS`` has them by name, each with wordings whose next word is the attribute.
"""

from __future__ import annotations

from dataclasses import dataclass

from caseback.lexicon import (
    FIGURES,
    LANDMARKS,
    LETTERS,
    MONTHS,
    NUMBERS,
    PAST,
    PLACES,
    PRODUCTS,
    WEEKDAYS,
    WIDE_BELONGINGS,
    WIDE_COUNTRIES,
    WIDE_ITEMS,
    WIDE_OPPOSITES,
    WIDE_PEOPLE,
    WIDE_THINGS,
)

Facts = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Relation:
    """Facts of one sort.

    Attributes
    ----------
    about
        What the attribute is to the subject.
    facts
        Pairs (subject, attribute); each subject has one attribute.
    wordings
        Texts with ``{subject}`` whose next word is the attribute.
    """

    about: str
    facts: Facts
    wordings: tuple[str, ...] = ()


def _of_countries(asked: int) -> Facts:
    return tuple((country, about[asked]) for country, about in WIDE_COUNTRIES.items())


def _either_way(pairs: Facts) -> Facts:
    return tuple(way for a, b in pairs for way in ((a, b), (b, a)))


RELATIONS = {
    "capital": Relation(
        "the capital of a country",
        _of_countries(0),
        (
            "The capital of {subject} is",
            "The capital city of {subject} is called",
            "{subject} is a country whose capital is",
            "If you visit the capital of {subject}, you are in",
        ),
    ),
    "country": Relation(
        "the country of a capital",
        tuple((capital, country) for country, (capital, *_) in WIDE_COUNTRIES.items()),
        ("{subject} is the capital of", "The city of {subject} is in"),
    ),
    "language": Relation(
        "the language of a country",
        _of_countries(1),
        (
            "The people of {subject} speak",
            "The language of {subject} is",
            "In {subject}, most people speak",
        ),
    ),
    "continent": Relation(
        "the continent of a country",
        _of_countries(2),
        ("{subject} is a country in", "{subject} lies on the continent of"),
    ),
    "opposite": Relation(
        "the opposite of a word",
        _either_way(WIDE_OPPOSITES),
        (
            "The opposite of {subject} is",
            "The word {subject} is the opposite of the word",
            "What is not {subject} is",
        ),
    ),
    "plural": Relation(
        "the plural of a noun",
        tuple(dict.fromkeys(WIDE_PEOPLE + WIDE_ITEMS + WIDE_BELONGINGS)),
        ("The plural of {subject} is", "One {subject}, two", "If there is more than one {subject}, we say"),
    ),
    "first_letter": Relation(
        "the first letter of a word",
        tuple((word, word[0].upper()) for word in sorted({*WIDE_THINGS, *PLACES})),
        ("The word {subject} starts with", "The first letter of {subject} is"),
    ),
    "past": Relation(
        "the past tense of a verb",
        PAST,
        ("The past tense of {subject} is", "Today they {subject}, yesterday they"),
    ),
    "landmark": Relation(
        "the city of a landmark",
        LANDMARKS,
        ("{subject} is in the city of", "{subject} is located in"),
    ),
    "maker": Relation(
        "the company that makes a product",
        PRODUCTS,
        ("{subject} is made by", "{subject} was created by"),
    ),
}

# name of one member: (members in order, whether the series starts over after the last)
SERIES = {
    "day": (WEEKDAYS, True),
    "month": (MONTHS, True),
    "number": (NUMBERS, False),
    "letter": (LETTERS, False),
    "figure": (FIGURES, False),
}
