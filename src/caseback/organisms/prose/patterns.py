"""What the form alone shows: repeated lists, agreement and number, later years, ordered series."""

from __future__ import annotations

import random

from caseback import lexicon
from caseback.organisms.prose import world
from caseback.organisms.prose.documents import Document, checksum, held_out, marked, until


def word_list(rng: random.Random, heldout: bool = False) -> Document:
    """A list of unrelated words that comes twice; a word of its second occurrence is asked for.

    Lists are drawn afresh each time, so none is held out.
    """
    words = rng.sample(world.LIST_WORDS, rng.randint(4, 12))
    join = rng.choice((" ", " ", ", "))
    again = rng.randint(2, len(words) - 1)
    shown = [*words, *words[:again]]
    prompt = join.join(shown) + join.rstrip(" ")
    rest = "".join(join + word for word in words[again + 1 :])
    return Document("word_list", prompt, f" {words[again]}", rest)


NEAR = "near by behind beside".split()
STATES = [*lexicon.STATES, "here", "late"]


def agreement(rng: random.Random, heldout: bool = False) -> Document:
    """A verb that must agree with its subject, mostly past another noun of either number; always so if held out."""
    form = rng.choice(("near", "near", "that") if heldout else ("near", "near", "that", "plain"))
    nouns = lexicon.PEOPLE + (() if form == "that" else lexicon.ITEMS)
    subject, attractor = until(
        lambda: rng.sample(nouns, 2),
        lambda two: held_out(two[0][0], two[1][0], one_in=6) == heldout,
    )
    number, other = rng.randrange(2), rng.randrange(2)
    verbs, after = _verb(rng, person=subject in lexicon.PEOPLE)
    start = f"The {subject[number]}"
    if form == "near":
        start += f" {rng.choice(NEAR)} the {attractor[other]}"
    elif form == "that":
        start += f" that the {attractor[other]} {rng.choice(lexicon.DO)[other]}"
    text = f"{start}[ {verbs[number]}]{after}."
    return marked("agreement", text, f" {verbs[1 - number]}")


def _verb(rng: random.Random, person: bool) -> tuple[tuple[str, str], str]:
    """A verb in both numbers and the words that follow it."""
    sort = rng.choice(("be", "be", "act", "do")) if person else "be"
    if sort == "act":
        return rng.choice(lexicon.ACT), rng.choice(("", f" at the {rng.choice(lexicon.PLACES)}"))
    if sort == "do":
        return rng.choice(lexicon.DO), f" the {rng.choice(lexicon.THINGS)}"
    return rng.choice(lexicon.BE), rng.choice((f" {rng.choice(STATES)}", f" at the {rng.choice(lexicon.PLACES)}"))


COUNTED = (
    "{N} found one {s}. Then {N} found two more[ {p}].",
    "There is one {s} here, but {N} wants many[ {p}].",
    "{N} likes these {p}. One of them is a small[ {s}].",
    "There are many {p} here, but {N} wants only one[ {s}].",
    "The {p} are old. {N} likes these[ {p}].",
    "The {s} is old. {N} likes this[ {s}].",
)


def determiner(rng: random.Random, heldout: bool = False) -> Document:
    """A noun in the number that the word before it calls for; the noun came before, in the same or the other number."""
    (singular, plural), wording = until(
        lambda: (rng.choice(lexicon.PEOPLE + lexicon.ITEMS + lexicon.BELONGINGS), rng.choice(COUNTED)),
        lambda drawn: held_out(drawn[0][0], drawn[1], one_in=6) == heldout,
    )
    foil = plural if "[ {s}]" in wording else singular
    return marked("determiner", wording.format(N=rng.choice(lexicon.NAMES), s=singular, p=plural), f" {foil}")


SPANS = (
    "The {era} lasted from the year {c}{start:02} to the year {c}[{end:02}].",
    "The {era} lasted from the year {c}{start:02} to the year {c}[{end:02}].",
    "The {era} began in the year {c}{start:02} and ended in the year {c}[{end:02}].",
    "The {era} began in {c}{start:02} and was over by {c}[{end:02}].",
    "From {c}{start:02} to {c}[{end:02}] there was a long {era}.",  # nothing of the era before the answer
)


def years(rng: random.Random, heldout: bool = False) -> Document:
    """A span of years within a century: the second year must be the later one."""
    era, start = until(
        lambda: (rng.choice(lexicon.ERAS), rng.randint(2, 97)),
        lambda drawn: held_out(drawn[0], str(drawn[1]), one_in=8) == heldout,
    )
    end = rng.randint(start + 1, 99)
    text = rng.choice(SPANS[:-1] if heldout else SPANS).format(era=era, c=rng.randint(11, 19), start=start, end=end)
    return marked("years", text)


# name of one member: (members, whether the series starts over after the last)
SERIES = {
    "day": (lexicon.WEEKDAYS, True),
    "month": (lexicon.MONTHS, True),
    "number": (lexicon.NUMBERS, False),
    "letter": (lexicon.LETTERS, False),
    "figure": ([str(n) for n in range(1, 31)], False),
    "place": (lexicon.ORDINALS, False),
}


# Each with the step from the word shown to the word asked for.
STEPS = {
    "The {n} after {the}{w} is{art}[{x}].": 1,
    "After {the}{w} comes{art}[{x}].": 1,
    "In order, {the}{w} comes right before{art}[{x}].": 1,
    "The {n} before {the}{w} is{art}[{x}].": -1,
    "Before {the}{w} comes{art}[{x}].": -1,
    "In order, {the}{w} comes right after{art}[{x}].": -1,
}


def _never_told(name: str, start: int, wording: str) -> bool:
    """Whether no training text has this member in this wording, which holds for one combination in six.

    Each step has three wordings, of which at most one is withheld per member: what follows it and what precedes it can
    always be learned from the others.
    """
    if wording not in STEPS:
        return held_out(name, str(start), wording, one_in=6)
    same = [other for other, step in STEPS.items() if step == STEPS[wording]]
    return checksum(name, str(start), str(STEPS[wording])) % (2 * len(same)) == same.index(wording)


def series(rng: random.Random, heldout: bool = False) -> Document:
    """Days, months, numbers, letters in order, or the member after or before one."""

    def draw() -> tuple[str, int, str]:
        name = rng.choice(list(SERIES))
        wording = rng.choice((" ", ", ", " ", ", ", *STEPS))
        return name, rng.randrange(len(SERIES[name][0])), wording

    def fits(drawn: tuple[str, int, str]) -> bool:
        name, start, wording = drawn
        members, cyclic = SERIES[name]
        if wording in STEPS:
            room = cyclic or 0 <= start + STEPS[wording] < len(members)
        else:
            room = cyclic or len(members) - start > 3
        return room and _never_told(name, start, wording) == heldout

    name, start, wording = until(draw, fits)
    members, cyclic = SERIES[name]
    if wording in STEPS:
        text = wording.format(
            n="number" if name == "figure" else name,
            the="the " if name == "place" else "",
            art=" the" if name == "place" else "",
            w=members[start],
            x=f" {members[(start + STEPS[wording]) % len(members)]}",
        )
        return marked("series", text, f" {members[start]}")
    length = min(rng.randint(5, 10), len(members) if cyclic else len(members) - start)
    shown = [members[(start + step) % len(members)] for step in range(length)]
    asked = rng.randint(3, length) - 1
    prompt = wording.join(shown[:asked]) + wording.rstrip(" ")
    rest = "".join(wording + word for word in shown[asked + 1 :])
    return Document("series", prompt, f" {shown[asked]}", rest, f" {shown[asked - 1]}")
