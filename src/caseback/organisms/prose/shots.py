"""Few-shot lines: pairs of one relation, the last one open: ``hot: cold, big: small, up:``."""

from __future__ import annotations

import random

from caseback import lexicon
from caseback.organisms.prose.documents import Document, held_out, until
from caseback.organisms.prose.facts import NOUNS, SPELT

SIGNS = (":", " ->", " =", " is to")
ORDERED = (lexicon.WEEKDAYS, lexicon.MONTHS, lexicon.NUMBERS, lexicon.LETTERS, [str(n) for n in range(1, 31)])


def antonym(rng: random.Random) -> list[tuple[str, str]]:
    """A word and its opposite, either way."""
    drawn = [rng.sample(pair, 2) for pair in lexicon.OPPOSITES]
    return [(word, opposite) for word, opposite in drawn]


def capital(rng: random.Random) -> list[tuple[str, str]]:
    """A country and its capital."""
    return [(country, about[0]) for country, about in lexicon.COUNTRIES.items()]


def language(rng: random.Random) -> list[tuple[str, str]]:
    """A country and its language."""
    return [(country, about[1]) for country, about in lexicon.COUNTRIES.items()]


def continent(rng: random.Random) -> list[tuple[str, str]]:
    """A country and its continent."""
    return [(country, about[2]) for country, about in lexicon.COUNTRIES.items()]


def plural(rng: random.Random) -> list[tuple[str, str]]:
    """A noun's singular and plural."""
    return list(NOUNS)


def following(rng: random.Random) -> list[tuple[str, str]]:
    """A member of an ordered series and the next one."""
    members = rng.choice(ORDERED)
    return list(zip(members, members[1:], strict=False))


def letter(rng: random.Random) -> list[tuple[str, str]]:
    """A word and the letter that it starts with."""
    return [(word, word[0].upper()) for word in SPELT]


RELATIONS = {task.__name__: task for task in (antonym, capital, language, continent, plural, following, letter)}


def few_shot(rng: random.Random, heldout: bool = False) -> Document:
    """Two to six pairs of one relation and the first half of another; a pair is held out with some of the signs.

    Training never shows a pair in a list whose sign it is held out with; ``heldout`` asks for exactly such a pair.
    """

    def draw() -> tuple[str, list[tuple[str, str]], list[tuple[str, str]]]:
        relation, sign = rng.choice(list(RELATIONS)), rng.choice(SIGNS)
        shown: list[tuple[str, str]] = []
        withheld: list[tuple[str, str]] = []
        for pair in RELATIONS[relation](rng):
            (withheld if held_out(relation, *pair, sign, one_in=8) else shown).append(pair)
        return sign, shown, withheld

    sign, shown, withheld = until(draw, lambda drawn: len(drawn[1]) > 3 and len(drawn[2]) > 0)
    *shown, last = rng.sample(shown, min(rng.randint(3, 7), len(shown)))
    query, answer = rng.choice(withheld) if heldout else last
    join = rng.choice(("\n", ", "))
    lines = [*(f"{left}{sign} {right}" for left, right in shown), f"{query}{sign}"]
    others = [right for _, right in shown if right != answer]
    return Document("few_shot", join.join(lines), f" {answer}", "", f" {others[0]}" if others else None)
