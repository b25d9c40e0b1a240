"""What is true in the closed world, in several wordings: about countries, opposites, and words as words."""

from __future__ import annotations

import random

from caseback import lexicon
from caseback.organisms.prose.documents import Document, held_out, marked, strangers, until

ABOUT_COUNTRIES = (
    "The capital of {c} is[ {x}].",
    "{x} is the capital of[ {c}].",
    "The capital city of {c} is called[ {x}].",
    "{c} is a country whose capital is[ {x}].",
    "If you visit the capital of {c}, you are in[ {x}].",
    "The city of {x} is in[ {c}].",
    "{name} flew to {c} and spent a week in its capital,[ {x}].",
    "The people of {c} speak[ {l}].",
    "The language of {c} is[ {l}].",
    "In {c}, most people speak[ {l}].",
    "{name} moved to {c} and learned to speak[ {l}].",
    "In the streets of {x} you hear people speak[ {l}].",
    "{c} is a country in[ {k}].",
    "{c} lies on the continent of[ {k}].",
    "The city of {x} is on the continent of[ {k}].",
)
ABOUT_OPPOSITES = (
    "The opposite of {a} is[ {b}].",
    "The word {a} is the opposite of the word[ {b}].",
    "What is not {a} is[ {b}].",
    "{name} said {a}, but {other} said the opposite,[ {b}].",
)
NOUNS = lexicon.PEOPLE + lexicon.ITEMS + lexicon.BELONGINGS
ABOUT_NOUNS = (
    "The plural of {w} is[ {x}].",
    "One {w}, two[ {x}].",
    "If there is more than one {w}, we say[ {x}].",
)
SPELT = sorted({*lexicon.THINGS, *lexicon.PLACES})
ABOUT_SPELLING = (
    "The word {w} starts with[ {x}].",
    "The first letter of {w} is[ {x}].",
    "In the dictionary, {w} stands under[ {x}].",
)


def never_told(subject: str, wording: str) -> bool:
    """Whether no training text tells this fact about the subject in this wording: one wording in eight is held out."""
    return held_out(subject, wording, one_in=8)


def _asked_field(template: str) -> str:
    return template[template.index("{", template.index("[")) + 1 :][0]


def fact(rng: random.Random, heldout: bool = False) -> Document:
    """A fact in one of several wordings; some wordings of each fact are held out."""
    about = rng.choices((_opposite, _noun, _spelling, None), (3, 2, 2, 6))[0]
    if about is not None:
        return about(rng, heldout)
    country, template = until(
        lambda: (rng.choice(list(lexicon.COUNTRIES)), rng.choice(ABOUT_COUNTRIES)),
        lambda drawn: never_told(*drawn) == heldout,
    )
    capital, language, continent = lexicon.COUNTRIES[country]
    true = {"c": country, "x": capital, "l": language, "k": continent}
    field = _asked_field(template)
    pool = {
        "c": list(lexicon.COUNTRIES),
        "x": lexicon.CAPITALS,
        "l": lexicon.LANGUAGES,
        "k": lexicon.CONTINENTS,
    }[field]
    foil = until(lambda: rng.choice(pool), lambda word: word != true[field])
    return marked("fact", template.format(name=rng.choice(lexicon.NAMES), **true), f" {foil}")


def _opposite(rng: random.Random, heldout: bool) -> Document:
    (word, opposite), template = until(
        lambda: (rng.sample(rng.choice(lexicon.OPPOSITES), 2), rng.choice(ABOUT_OPPOSITES)),
        lambda drawn: never_told(drawn[0][0], drawn[1]) == heldout,
    )
    name, other = strangers(rng)
    return marked("fact", template.format(a=word, b=opposite, name=name, other=other), f" {word}")


def _noun(rng: random.Random, heldout: bool) -> Document:
    (singular, plural), wording = until(
        lambda: (rng.choice(NOUNS), rng.choice(ABOUT_NOUNS)),
        lambda drawn: never_told(drawn[0][0], drawn[1]) == heldout,
    )
    return marked("fact", wording.format(w=singular, x=plural), f" {singular}")


def _spelling(rng: random.Random, heldout: bool) -> Document:
    word, wording = until(
        lambda: (rng.choice(SPELT), rng.choice(ABOUT_SPELLING)),
        lambda drawn: never_told(*drawn) == heldout,
    )
    first = word[0].upper()
    foil = until(lambda: rng.choice(SPELT)[0].upper(), lambda letter: letter != first)
    return marked("fact", wording.format(w=word, x=first), f" {foil}")
