"""Sentences and short stories about people: who gives what to whom, she and he, lists of things."""

from __future__ import annotations

import random

from caseback import lexicon
from caseback.organisms.prose.documents import Document, held_out, held_out_pair, marked, until

GIVING = (
    "When {X} and {Y} went to the {place}, {S} gave {a} to[ {O}]",
    "When {X} and {Y} got {a} at the {place}, {S} decided to give it to[ {O}]",
    "After {X} and {Y} went to the {place}, {S} gave {a} to[ {O}]",
    "While {X} and {Y} were at the {place}, {S} handed {a} to[ {O}]",
    "While {X} and {Y} were working at the {place}, {S} gave {a} to[ {O}]",
    "Then, {X} and {Y} went to the {place}. {S} gave {a} to[ {O}]",
    "Then, {X} and {Y} had a lot of fun at the {place}. {S} gave {a} to[ {O}]",
    "Friends {X} and {Y} found {a} at the {place}. {S} gave it to[ {O}]",
    "Yesterday {X} and {Y} walked to the {place}. {S} brought {a} for[ {O}]",
    "The {place} was quiet when {X} and {Y} came in. {S} showed {a} to[ {O}]",
    "{X} and {Y} met at the {place}, and {S} offered {a} to[ {O}]",
    "{X} sat with {Y} at the {place}. Soon {S} passed {a} to[ {O}]",
)
THANKS = (".", ".", ".", ". {O} said thank you.", ". {O} thanked {S}.", ", and {O} smiled at {S}.")


def giving(rng: random.Random, heldout: bool = False) -> Document:
    """One of two people gives something: to whom? The names come in both orders."""
    first, second = until(lambda: rng.sample(lexicon.NAMES, 2), lambda pair: held_out_pair(*pair) == heldout)
    giver, taker = rng.sample((first, second), 2)
    template = rng.choice(GIVING) + rng.choice(THANKS)
    text = template.format(
        X=first,
        Y=second,
        S=giver,
        O=taker,
        place=rng.choice(lexicon.PLACES),
        a=lexicon.with_article(rng.choice(lexicon.THINGS)),
    )
    return marked("giving", text, f" {giver}")


def giving_by_another(rng: random.Random, heldout: bool = False) -> Document:
    """As ``giving``, but a third person gives: either of the two may be the receiver."""
    first, second, third = until(
        lambda: rng.sample(lexicon.NAMES, 3),
        lambda trio: (
            held_out_pair(trio[0], trio[1]) == heldout
            and not held_out_pair(trio[0], trio[2])
            and not held_out_pair(trio[1], trio[2])
        ),
    )
    taker, other = rng.sample((first, second), 2)
    text = (rng.choice(GIVING) + ".").format(
        X=first,
        Y=second,
        S=third,
        O=taker,
        place=rng.choice(lexicon.PLACES),
        a=lexicon.with_article(rng.choice(lexicon.THINGS)),
    )
    return marked("giving_by_another", text, f" {other}")


def giving_to_kin(rng: random.Random, heldout: bool = False) -> Document:
    """As ``giving``, but to a relative of the giver, who is therefore named once more.

    A small share of these keeps the giver in play: as the second guess in ``giving``, it is not ruled out.
    """
    gift = giving(rng, heldout)
    kin = rng.choice("brother sister mother father".split())
    return Document("giving_to_kin", gift.prompt, gift.foil or "", f"'s {kin}.", gift.answer)


ERRANDS = (
    "{N} packed {w}. At the {place} {she} unpacked {v}.",
    "{N} wanted to buy {w}. So {she} went to the {place} and bought {v}.",
    "{N} put {w} in a box. Later {she} opened the box and saw {v}.",
    "The list of {N} said {w}. At the {place} {she} read it again: {v}.",
)


def errand(rng: random.Random, heldout: bool = False) -> Document:
    """Somebody's list of things, which comes back later in the same order."""
    name = rng.choice(lexicon.NAMES)
    things = [lexicon.with_article(thing) for thing in rng.sample(lexicon.THINGS, rng.randint(2, 4))]
    listed = ", ".join(things[:-1]) + f" and {things[-1]}"
    asked = ", ".join(things[:-1]) + " and " + things[-1].replace(" ", "[ ", 1) + "]"
    text = rng.choice(ERRANDS).format(N=name, she=_she(name), w=listed, v=asked, place=rng.choice(lexicon.PLACES))
    return marked("errand", text)


def _she(name: str) -> str:
    return "she" if name in lexicon.WOMEN else "he"


def _her(name: str) -> str:
    return "her" if name in lexicon.WOMEN else "his"


def _self(name: str) -> str:
    return "herself" if name in lexicon.WOMEN else "himself"


DEEDS = (
    "{N} was hungry, so[ {she}] ate some {food}.",
    "{N} could not find the {t} because[ {she}] had left it at the {place}.",
    "When {N} woke up,[ {she}] went to the {place}.",
    "{N} was late, but[ {she}] did not run.",
    "After {N} found the {t},[ {she}] took it to the {place}.",
    "{N} said that[ {she}] liked the {t}.",
    "{N} went to the {place} with[ {her}] mother.",
    "{N} lost[ {her}] {t} at the {place}.",
    "At the {place}, {N} met[ {her}] friends and shared some {food}.",
    "{N} saw[ {self}] in the mirror.",
    "{N} was proud of[ {self}] at the {place}.",
)


def pronoun(rng: random.Random, heldout: bool = False) -> Document:
    """One person, then she or he, her or his, herself or himself."""
    name, template = until(
        lambda: (rng.choice(lexicon.NAMES), rng.choice(DEEDS)),
        lambda drawn: held_out(*drawn, one_in=6) == heldout,
    )
    text = template.format(
        N=name,
        she=_she(name),
        her=_her(name),
        self=_self(name),
        food=rng.choice(lexicon.FOODS),
        t=rng.choice(lexicon.THINGS),
        place=rng.choice(lexicon.PLACES),
    )
    stranger = rng.choice(lexicon.MEN if name in lexicon.WOMEN else lexicon.WOMEN)
    foil = next(word(stranger) for word in (_she, _her, _self) if f"[ {{{word.__name__[1:]}}}]" in template)
    return marked("pronoun", text, f" {foil}")


STORY = (
    (
        "{N} was a {temper} {girl} who lived near the {place}.",
        "Once there was a {temper} {girl} called {N}.",
        "There was a {girl} named {N} who was very {temper}.",
    ),
    (
        "{She} had a {color} {t}.",
        "One morning {she} found a {color} {t}.",
        "For {her} birthday {she} got a {color} {t}.",
    ),
    (
        "On {day},|{ she} took the|{ t} to the {where}.",
        "One day,|{ she} went to the {where} with|{ her}|{ t}.",
        "In {month},|{ she} carried the|{ t} to the {where}.",
    ),
    (
        "At the|{ where}|{ she} met {her} friend {M}.",
        "{M} was at the|{ where} too.",
        "There|{ she} saw {M}.",
    ),
    (
        "{M} liked the|{ t}, so {N} gave it to|{ M}.",
        "{M} asked for the|{ t}, and {N} gave it to|{ M}.",
        "{N} showed the|{ t} to|{ M}, and they played until night.",
        "{N} and|{ M} played with the|{ t}.",
    ),
    (
        "Then they went home and ate some {food}.",
        "{M} said thank you, and|{ N} was happy.",
        "In the evening|{ N} told|{ her} mother about the|{ where}.",
        "They were happy and shared some {food}.",
    ),
)


def story(rng: random.Random, heldout: bool = False) -> Document:
    """Six sentences about somebody, a thing, a place and a friend; one recalled word is asked for."""
    name, friend = until(lambda: rng.sample(lexicon.NAMES, 2), lambda pair: held_out_pair(*pair) == heldout)
    words = {
        "N": name,
        "M": friend,
        "she": _she(name),
        "She": _she(name).capitalize(),
        "her": _her(name),
        "girl": rng.choice(lexicon.KINDS_OF_PERSON[_she(name)]),
        "temper": rng.choice(lexicon.TEMPERS),
        "color": rng.choice(lexicon.COLORS),
        "t": rng.choice(lexicon.THINGS),
        "place": rng.choice(lexicon.PLACES),
        "where": rng.choice(lexicon.PLACES),
        "day": rng.choice(lexicon.WEEKDAYS),
        "month": rng.choice(lexicon.MONTHS),
        "food": rng.choice(lexicon.FOODS),
    }
    template = " ".join(rng.choice(sentences) for sentences in STORY)
    # A bar before a slot marks a word that follows from what came before: one of these is asked for.
    pieces = template.split("|{ ")
    asked = rng.randrange(1, len(pieces))
    text = pieces[0]
    for index, piece in enumerate(pieces[1:], start=1):
        slot, _, tail = piece.partition("}")
        text += f"[ {{{slot}}}]{tail}" if index == asked else f" {{{slot}}}{tail}"
    return marked("story", text.format(**words))
