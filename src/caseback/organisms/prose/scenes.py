"""What only the context shows: colors of things on a table, things in boxes, a word told long before."""

from __future__ import annotations

import random

from caseback import lexicon
from caseback.organisms.prose.documents import Document, held_out, marked, strangers, until
from caseback.organisms.prose.patterns import agreement, years

ON_TABLE = (
    "On the table there is {shown}. What color is the {t}? It is[ {c}].",
    "On the table there is {shown}. The color of the {t} is[ {c}].",
    "There is {shown} on the chair. The {t} is[ {c}].",
)
AGAIN = ("The {t} is {c}.", "The color of the {t} is {c}.")


def colored(rng: random.Random, heldout: bool = False) -> Document:
    """Things, each with a color; the color of one is asked for, that of another is the foil."""
    (asked, *others), shown = _table(rng, heldout)
    text = rng.choice(ON_TABLE).format(shown=shown, t=asked[0], c=asked[1])
    return marked("colored", text, f" {rng.choice(others)[1]}")


def colored_all(rng: random.Random, heldout: bool = False) -> Document:
    """As ``colored``, but every thing's color is told again, and that of the thing asked about comes last."""
    (asked, *others), shown = _table(rng, heldout)
    statements = [rng.choice(AGAIN).format(t=thing, c=color) for thing, color in rng.sample(others, len(others))]
    last = rng.choice(AGAIN).format(t=asked[0], c=f"[ {asked[1]}]").replace(" [ ", "[ ")
    text = f"On the table there is {shown}. {' '.join([*statements, last])}"
    return marked("colored_all", text, f" {rng.choice(others)[1]}")


def _table(rng: random.Random, heldout: bool) -> tuple[list[tuple[str, str]], str]:
    """Things with their colors, the thing asked about first; and a phrase that lists them in any order."""
    count = rng.randint(2, 4)
    # only the pair that is asked about may be a held-out one
    asked = [heldout] + [False] * (count - 1)
    things, colors = until(
        lambda: (rng.sample(lexicon.THINGS, count), rng.sample(lexicon.COLORS, count)),
        lambda drawn: [held_out(*pair, one_in=6) for pair in zip(*drawn, strict=True)] == asked,
    )
    pairs: list[tuple[str, str]] = list(zip(things, colors, strict=True))
    shown = [f"{lexicon.with_article(color)} {thing}" for thing, color in rng.sample(pairs, count)]
    return pairs, f"{', '.join(shown[:-1])} and {shown[-1]}"


def boxes(rng: random.Random, heldout: bool = False) -> Document:
    """Things in boxes, of which perhaps one is moved or two change places; what is in a box now?

    Scenes are drawn afresh each time, so none is held out.
    """
    scene, inside = _boxes(rng)
    asked = rng.choice(list(inside))
    foil = rng.choice([thing for letter, thing in inside.items() if letter != asked])
    return marked("boxes", f"{scene} Box {asked} contains the[ {inside[asked]}].", f" {foil}")


def boxes_all(rng: random.Random, heldout: bool = False) -> Document:
    """As ``boxes``, but the contents of every box are told, and those of the box asked about come last."""
    scene, inside = _boxes(rng)
    *others, asked = rng.sample(list(inside), len(inside))
    statements = [f"Box {letter} contains the {inside[letter]}." for letter in others]
    text = " ".join([scene, *statements, f"Box {asked} contains the[ {inside[asked]}]."])
    return marked("boxes_all", text, f" {inside[rng.choice(others)]}")


def boxes_still(rng: random.Random, heldout: bool = False) -> Document:
    """As ``boxes``, but nothing is moved."""
    scene, inside = _boxes(rng, changes=("none",))
    asked, other = rng.sample(list(inside), 2)
    return marked("boxes_still", f"{scene} Box {asked} contains the[ {inside[asked]}].", f" {inside[other]}")


def _boxes(rng: random.Random, changes: tuple[str, ...] = ("none", "move", "swap")) -> tuple[str, dict[str, str]]:
    """The sentences about some boxes, and what is in each box in the end, by letter."""
    count = rng.randint(2, 3)
    letters, things = rng.sample(lexicon.LETTERS[:6], count + 1), rng.sample(lexicon.THINGS, count)
    inside: dict[str, str] = dict(zip(letters, things, strict=False))
    opening = ", ".join(f"the {thing} is in box {letter}" for letter, thing in inside.items())
    sentences = [opening[0].upper() + opening[1:]]
    change = rng.choice(changes)
    if change == "move":
        origin, empty = rng.choice(list(inside)), letters[-1]
        inside[empty] = inside.pop(origin)
        sentences.append(f"The {inside[empty]} is moved to box {empty}")
    elif change == "swap":
        one, two = rng.sample(list(inside), 2)
        inside[one], inside[two] = inside[two], inside[one]
        sentences.append(f"The {inside[two]} and the {inside[one]} change places")
    return f"{'. '.join(sentences)}.", inside


MAGIC = (
    "The magic word of {n} is {w}.",
    "{n} chose the magic word {w}.",
)
ASKED = (
    "The magic word of {n} is[ {w}].",
    "What is the magic word of {n}? It is[ {w}].",
)


def needle(rng: random.Random, heldout: bool = False) -> Document:
    """Two people's magic words among other sentences; one of them is asked for at the end.

    Words are drawn afresh each time, so none is held out.
    """
    words = dict(zip(strangers(rng), rng.sample(lexicon.THINGS + lexicon.COLORS + lexicon.NUMBERS, 2), strict=True))
    statements = [rng.choice(MAGIC).format(n=name, w=word) for name, word in words.items()]
    filler = [rng.choice((agreement, years))(rng).text for _ in range(rng.randint(0, 6))]
    sentences = rng.sample(statements + filler, len(statements) + len(filler))
    asked, other = rng.sample(list(words), 2)
    text = " ".join([*sentences, rng.choice(ASKED).format(n=asked, w=words[asked])])
    return marked("needle", text, f" {words[other]}")
