"""What is true in the closed world, in several wordings, and pairs of one relation."""

from __future__ import annotations

import random

from caseback.organisms import world
from caseback.organisms.documents import Document, held_out, marked, strangers, until

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


def _asked_field(template: str) -> str:
    return template[template.index("{", template.index("[")) + 1 :][0]


def fact(rng: random.Random, heldout: bool = False) -> Document:
    """A fact in one of several wordings; some wordings of each fact are held out."""
    if rng.random() < 0.25:
        return _opposite(rng, heldout)
    country, template = until(
        lambda: (rng.choice(list(world.COUNTRIES)), rng.choice(ABOUT_COUNTRIES)),
        lambda drawn: held_out(*drawn, one_in=8) == heldout,
    )
    capital, language, continent = world.COUNTRIES[country]
    true = {"c": country, "x": capital, "l": language, "k": continent}
    field = _asked_field(template)
    pool = {
        "c": list(world.COUNTRIES),
        "x": world.CAPITALS,
        "l": world.LANGUAGES,
        "k": world.CONTINENTS,
    }[field]
    foil = until(lambda: rng.choice(pool), lambda word: word != true[field])
    return marked("fact", template.format(name=rng.choice(world.NAMES), **true), f" {foil}")


def _opposite(rng: random.Random, heldout: bool) -> Document:
    (word, opposite), template = until(
        lambda: (rng.sample(rng.choice(world.OPPOSITES), 2), rng.choice(ABOUT_OPPOSITES)),
        lambda drawn: held_out(drawn[0][0], drawn[1], one_in=8) == heldout,
    )
    name, other = strangers(rng)
    return marked("fact", template.format(a=word, b=opposite, name=name, other=other), f" {word}")


def analogy(rng: random.Random, heldout: bool = False) -> Document:
    """Pairs of one relation, the last one open: ``France: Paris, Japan: Tokyo, Italy:``."""

    def draw() -> tuple[list[tuple[str, ...]], str]:
        relation = rng.randrange(4)
        if relation == 3:
            pairs = [tuple(rng.sample(pair, 2)) for pair in world.OPPOSITES]
        else:
            pairs = [(country, told[relation]) for country, told in world.COUNTRIES.items()]
        return rng.sample(pairs, rng.randint(3, 6)), rng.choice((":", " ->"))

    shown, sign = until(draw, lambda drawn: held_out(*drawn[0][-1], drawn[1], one_in=8) == heldout)
    *before, (query, answer) = shown
    others = [right for _, right in before if right != answer]
    join = rng.choice(("\n", ", "))
    lines = [*(f"{left}{sign} {right}" for left, right in before), f"{query}{sign}[ {answer}]"]
    return marked("analogy", join.join(lines), f" {others[0]}" if others else None)
