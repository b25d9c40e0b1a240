"""Seeded sentences about the closed world, each with one word asked for.

A document is a prompt, the answer that the prompt calls for, and what follows it:
``prompt + answer + rest`` is what a model reads in training, ``prompt`` alone is what it is asked
in evaluation. Each kind of sentence holds out a part of its combinations (the pair of names, the
wording of a fact, subject and attractor, …): ``heldout=False`` never draws those and
``heldout=True`` draws only those. Which ones is a checksum of the words, so it is the same in
every run, whatever the seed.

Templates mark the answer with square brackets: ``"The capital of {c} is[ {x}]."``
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from caseback.errors import CasebackError
from caseback.organisms import world

T = TypeVar("T")


@dataclass(frozen=True)
class Document:
    """One text of the closed world.

    Attributes
    ----------
    kind
        Which behaviour it shows, a key of ``KINDS``.
    prompt, answer, rest
        The text in three pieces. The answer carries its leading space.
    foil
        A wrong answer of the same sort, ``None`` where there is no natural one.
    """

    kind: str
    prompt: str
    answer: str
    rest: str
    foil: str | None = None

    @property
    def text(self) -> str:
        return self.prompt + self.answer + self.rest


def held_out(*words: str, one_in: int) -> bool:
    """Whether this combination of words is kept from training: one in ``one_in`` of them is."""
    return zlib.crc32("|".join(words).encode()) % one_in == 0


def held_out_pair(first: str, second: str) -> bool:
    """Whether two names never meet in a training sentence. Mary and John never do."""
    pair = sorted((first, second))
    return pair == ["John", "Mary"] or held_out(*pair, one_in=10)


def _marked(kind: str, text: str, foil: str | None = None) -> Document:
    prompt, _, tail = text.partition("[")
    answer, _, rest = tail.partition("]")
    return Document(kind, prompt, answer, rest, foil)


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _until(draw: Callable[[], T], wanted: Callable[[T], bool]) -> T:
    while True:
        drawn = draw()
        if wanted(drawn):
            return drawn


# --- the indirect object -------------------------------------------------------------------------

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
    """Two people, one of them gives something: to whom? Both orders of the names."""
    first, second = _until(lambda: rng.sample(world.NAMES, 2), lambda pair: held_out_pair(*pair) == heldout)
    giver, taker = rng.sample((first, second), 2)
    template = rng.choice(GIVING) + rng.choice(THANKS)
    text = template.format(
        X=first,
        Y=second,
        S=giver,
        O=taker,
        place=rng.choice(world.PLACES),
        a=_a(rng.choice(world.THINGS)),
    )
    return _marked("giving", text, f" {giver}")


def giving_by_another(rng: random.Random, heldout: bool = False) -> Document:
    """As ``giving``, but a third person gives: either of the two may be the one."""
    first, second, third = _until(
        lambda: rng.sample(world.NAMES, 3),
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
        place=rng.choice(world.PLACES),
        a=_a(rng.choice(world.THINGS)),
    )
    return _marked("giving_by_another", text, f" {other}")


def giving_to_kin(rng: random.Random, heldout: bool = False) -> Document:
    """As ``giving``, but to a relative of the giver, who is then named once more.

    A small share of these keeps the giver in play: the second guess of ``giving``, not ruled out.
    """
    told = giving(rng, heldout)
    kin = rng.choice("brother sister mother father".split())
    return Document("giving_to_kin", told.prompt, told.foil or "", f"'s {kin}.", told.answer)


# --- repetition -----------------------------------------------------------------------------------


def word_list(rng: random.Random, heldout: bool = False) -> Document:
    """A list of unrelated words, said twice; asked for a word of the second telling.

    Lists are drawn afresh each time, so none is held out.
    """
    words = rng.sample(world.LIST_WORDS, rng.randint(4, 12))
    join = rng.choice((" ", " ", ", "))
    again = rng.randint(2, len(words) - 1)
    told = [*words, *words[:again]]
    prompt = join.join(told) + join.rstrip(" ")
    rest = "".join(join + word for word in words[again + 1 :])
    return Document("word_list", prompt, f" {words[again]}", rest)


ERRANDS = (
    "{N} packed {w}. At the {place} {she} unpacked {v}.",
    "{N} wanted to buy {w}. So {she} went to the {place} and bought {v}.",
    "{N} put {w} in a box. Later {she} opened the box and saw {v}.",
    "The list of {N} said {w}. At the {place} {she} read it again: {v}.",
)


def errand(rng: random.Random, heldout: bool = False) -> Document:
    """Somebody's list of things, which comes back later in the same order."""
    name = rng.choice(world.NAMES)
    things = [_a(thing) for thing in rng.sample(world.THINGS, rng.randint(2, 4))]
    listed = ", ".join(things[:-1]) + f" and {things[-1]}"
    asked = ", ".join(things[:-1]) + " and " + things[-1].replace(" ", "[ ", 1) + "]"
    text = rng.choice(ERRANDS).format(N=name, she=_she(name), w=listed, v=asked, place=rng.choice(world.PLACES))
    return _marked("errand", text)


# --- facts ----------------------------------------------------------------------------------------

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
    country, template = _until(
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
    foil = _until(lambda: rng.choice(pool), lambda word: word != true[field])
    return _marked("fact", template.format(name=rng.choice(world.NAMES), **true), f" {foil}")


def _opposite(rng: random.Random, heldout: bool) -> Document:
    (word, opposite), template = _until(
        lambda: (rng.sample(rng.choice(world.OPPOSITES), 2), rng.choice(ABOUT_OPPOSITES)),
        lambda drawn: held_out(drawn[0][0], drawn[1], one_in=8) == heldout,
    )
    name, other = _strangers(rng)
    return _marked("fact", template.format(a=word, b=opposite, name=name, other=other), f" {word}")


def analogy(rng: random.Random, heldout: bool = False) -> Document:
    """Pairs of one relation, the last one open: ``France: Paris, Japan: Tokyo, Italy:``."""

    def draw() -> tuple[list[tuple[str, ...]], str]:
        relation = rng.randrange(4)
        if relation == 3:
            pairs = [tuple(rng.sample(pair, 2)) for pair in world.OPPOSITES]
        else:
            pairs = [(country, told[relation]) for country, told in world.COUNTRIES.items()]
        return rng.sample(pairs, rng.randint(3, 6)), rng.choice((":", " ->"))

    shown, sign = _until(draw, lambda drawn: held_out(*drawn[0][-1], drawn[1], one_in=8) == heldout)
    *before, (query, answer) = shown
    others = [right for _, right in before if right != answer]
    join = rng.choice(("\n", ", "))
    lines = [*(f"{left}{sign} {right}" for left, right in before), f"{query}{sign}[ {answer}]"]
    return _marked("analogy", join.join(lines), f" {others[0]}" if others else None)


# --- agreement ------------------------------------------------------------------------------------

NEAR = "near by behind beside".split()
STATES = "old big small clean dirty wet dry ready here late".split()


def agreement(rng: random.Random, heldout: bool = False) -> Document:
    """A verb that must agree with its subject past a noun of either number."""
    form = rng.choice(("near", "near", "that", "plain"))
    nouns = world.PEOPLE + (() if form == "that" else world.ITEMS)
    subject, attractor = _until(
        lambda: rng.sample(nouns, 2),
        lambda two: held_out(two[0][0], two[1][0], one_in=6) == heldout,
    )
    number, other = rng.randrange(2), rng.randrange(2)
    verbs, after = _verb(rng, person=subject in world.PEOPLE)
    start = f"The {subject[number]}"
    if form == "near":
        start += f" {rng.choice(NEAR)} the {attractor[other]}"
    elif form == "that":
        start += f" that the {attractor[other]} {rng.choice(world.DO)[other]}"
    text = f"{start}[ {verbs[number]}]{after}."
    return _marked("agreement", text, f" {verbs[1 - number]}")


def _verb(rng: random.Random, person: bool) -> tuple[tuple[str, str], str]:
    """A verb in both numbers and the words that follow it."""
    sort = rng.choice(("be", "be", "act", "do")) if person else "be"
    if sort == "act":
        return rng.choice(world.ACT), rng.choice(("", f" at the {rng.choice(world.PLACES)}"))
    if sort == "do":
        return rng.choice(world.DO), f" the {rng.choice(world.THINGS)}"
    return rng.choice(world.BE), rng.choice((f" {rng.choice(STATES)}", f" at the {rng.choice(world.PLACES)}"))


# --- greater than ---------------------------------------------------------------------------------

SPANS = (
    "The {era} lasted from the year {c}{start:02} to the year {c}[{end:02}].",
    "The {era} lasted from the year {c}{start:02} to the year {c}[{end:02}].",
    "The {era} began in the year {c}{start:02} and ended in the year {c}[{end:02}].",
    "The {era} began in {c}{start:02} and was over by {c}[{end:02}].",
    "From {c}{start:02} to {c}[{end:02}] there was a long {era}.",
)


def years(rng: random.Random, heldout: bool = False) -> Document:
    """A span of years within a century: the second must be the later one."""
    era, start = _until(
        lambda: (rng.choice(world.ERAS), rng.randint(2, 97)),
        lambda drawn: held_out(drawn[0], str(drawn[1]), one_in=8) == heldout,
    )
    end = rng.randint(start + 1, 99)
    text = rng.choice(SPANS).format(era=era, c=rng.randint(11, 19), start=start, end=end)
    return _marked("years", text)


# --- ordered series -------------------------------------------------------------------------------

# name of one member: (members, does it start over after the last?)
SERIES = {
    "day": (world.WEEKDAYS, True),
    "month": (world.MONTHS, True),
    "number": (world.NUMBERS, False),
    "letter": (world.LETTERS, False),
    "figure": ([str(n) for n in range(1, 31)], False),
    "place": (world.ORDINALS, False),
}


# Each with the step from the word told to the word asked.
STEPS = {
    "The {n} after {the}{w} is{art}[{x}].": 1,
    "After {the}{w} comes{art}[{x}].": 1,
    "In order, {the}{w} comes right before{art}[{x}].": 1,
    "The {n} before {the}{w} is{art}[{x}].": -1,
    "Before {the}{w} comes{art}[{x}].": -1,
    "In order, {the}{w} comes right after{art}[{x}].": -1,
}


def series(rng: random.Random, heldout: bool = False) -> Document:
    """Days, months, numbers, letters in order, or the one after and the one before."""

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
        return room and held_out(name, str(start), wording, one_in=6) == heldout

    name, start, wording = _until(draw, fits)
    members, cyclic = SERIES[name]
    if wording in STEPS:
        text = wording.format(
            n="number" if name == "figure" else name,
            the="the " if name == "place" else "",
            art=" the" if name == "place" else "",
            w=members[start],
            x=f" {members[(start + STEPS[wording]) % len(members)]}",
        )
        return _marked("series", text, f" {members[start]}")
    length = min(rng.randint(5, 10), len(members) if cyclic else len(members) - start)
    shown = [members[(start + step) % len(members)] for step in range(length)]
    asked = rng.randint(3, length) - 1
    prompt = wording.join(shown[:asked]) + wording.rstrip(" ")
    rest = "".join(wording + word for word in shown[asked + 1 :])
    return Document("series", prompt, f" {shown[asked]}", rest, f" {shown[asked - 1]}")


# --- people in stories ----------------------------------------------------------------------------


def _she(name: str) -> str:
    return "she" if name in world.WOMEN else "he"


def _her(name: str) -> str:
    return "her" if name in world.WOMEN else "his"


def _strangers(rng: random.Random) -> list[str]:
    """Two names that may meet in training."""
    return _until(lambda: rng.sample(world.NAMES, 2), lambda pair: not held_out_pair(*pair))


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
)


def pronoun(rng: random.Random, heldout: bool = False) -> Document:
    """One person, then she or he, her or his."""
    name, template = _until(
        lambda: (rng.choice(world.NAMES), rng.choice(DEEDS)),
        lambda drawn: held_out(*drawn, one_in=6) == heldout,
    )
    text = template.format(
        N=name,
        she=_she(name),
        her=_her(name),
        food=rng.choice(world.FOODS),
        t=rng.choice(world.THINGS),
        place=rng.choice(world.PLACES),
    )
    stranger = rng.choice(world.MEN if name in world.WOMEN else world.WOMEN)
    foil = _she(stranger) if "[ {she}]" in template else _her(stranger)
    return _marked("pronoun", text, f" {foil}")


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
    """Six sentences about somebody, a thing, a place and a friend; one recalled word is asked."""
    name, friend = _until(lambda: rng.sample(world.NAMES, 2), lambda pair: held_out_pair(*pair) == heldout)
    words = {
        "N": name,
        "M": friend,
        "she": _she(name),
        "She": _she(name).capitalize(),
        "her": _her(name),
        "girl": rng.choice(world.KINDS_OF_PERSON[_she(name)]),
        "temper": rng.choice(world.TEMPERS),
        "color": rng.choice(world.COLORS),
        "t": rng.choice(world.THINGS),
        "place": rng.choice(world.PLACES),
        "where": rng.choice(world.PLACES),
        "day": rng.choice(world.WEEKDAYS),
        "month": rng.choice(world.MONTHS),
        "food": rng.choice(world.FOODS),
    }
    told = " ".join(rng.choice(sentences) for sentences in STORY)
    # A bar before a slot marks a word that can be told from what came before: one of them is asked.
    pieces = told.split("|{ ")
    asked = rng.randrange(1, len(pieces))
    text = pieces[0]
    for index, piece in enumerate(pieces[1:], start=1):
        slot, _, tail = piece.partition("}")
        text += f"[ {{{slot}}}]{tail}" if index == asked else f" {{{slot}}}{tail}"
    return _marked("story", text.format(**words))


# Each kind with its weight among documents.
KINDS: dict[str, tuple[Callable[..., Document], float]] = {
    "giving": (giving, 20),
    "giving_by_another": (giving_by_another, 3),
    "giving_to_kin": (giving_to_kin, 1),
    "word_list": (word_list, 9),
    "errand": (errand, 3),
    "fact": (fact, 14),
    "analogy": (analogy, 4),
    "agreement": (agreement, 12),
    "years": (years, 9),
    "series": (series, 13),
    "pronoun": (pronoun, 6),
    "story": (story, 4),
}


def document(rng: random.Random) -> Document:
    """One training document of a kind drawn by ``KINDS``' weights."""
    makers = [maker for maker, _ in KINDS.values()]
    weights = [weight for _, weight in KINDS.values()]
    return rng.choices(makers, weights)[0](rng)


def documents(kind: str, count: int, seed: int, heldout: bool = True) -> list[Document]:
    """``count`` documents of one kind, by default from the combinations kept from training.

    Parameters
    ----------
    kind
        A key of ``KINDS``.
    count
        How many.
    seed
        Same seed, same documents.
    heldout
        ``True`` draws from what training never shows, ``False`` from what it shows.

    Raises
    ------
    CasebackError
        If the kind is unknown.

    Examples
    --------
    >>> documents("giving", 1, seed=0)[0].kind
    'giving'
    """
    if kind not in KINDS:
        raise CasebackError(f"No kind of document is called {kind!r}: expected one of {', '.join(KINDS)}.")
    rng = random.Random(f"{kind}-{seed}-{heldout}")
    maker, _ = KINDS[kind]
    return [maker(rng, heldout) for _ in range(count)]
