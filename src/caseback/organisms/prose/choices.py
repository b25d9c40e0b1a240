"""Questions with lettered options: the answer is a letter, known from memory or from a sentence before."""

from __future__ import annotations

import random
from collections.abc import Sequence

from caseback import lexicon
from caseback.organisms.prose.documents import Document, held_out, marked, until
from caseback.organisms.prose.facts import never_told

# question, the sentence that answers it, the words both are filled with (the subject first), the right word, its pool
Asked = tuple[str, str, dict[str, str], str, Sequence[str]]


def _of_memory(rng: random.Random) -> Asked:
    """A question about a country or a word; the sentence is one of the wordings that tell the fact."""
    sort = rng.randrange(3)
    if sort == 0:
        word, opposite = rng.sample(rng.choice(lexicon.OPPOSITES), 2)
        pool = [other for pair in lexicon.OPPOSITES for other in pair if other != word]
        fillers = {"a": word, "b": opposite}
        return "What is the opposite of {a}?", "The opposite of {a} is[ {b}].", fillers, opposite, pool
    country = rng.choice(list(lexicon.COUNTRIES))
    capital, language, _ = lexicon.COUNTRIES[country]
    fillers = {"c": country, "x": capital, "l": language}
    if sort == 1:
        return "What do people speak in {c}?", "In {c}, most people speak[ {l}].", fillers, language, lexicon.LANGUAGES
    return "What is the capital of {c}?", "The capital of {c} is[ {x}].", fillers, capital, lexicon.CAPITALS


def _of_sight(rng: random.Random) -> Asked:
    """A question about a thing's color and the sentence that tells it."""
    thing, color = rng.choice(lexicon.THINGS), rng.choice(lexicon.COLORS)
    return "What color is the {t}?", "The {t} is[ {k}].", {"t": thing, "k": color}, color, lexicon.COLORS


def choice(rng: random.Random, heldout: bool = False) -> Document:
    """Two to four options; a sentence before the question tells the answer, or only memory knows it."""
    of = rng.choice((_of_sight, _of_memory, _of_memory))

    def fits(asked: Asked) -> bool:
        question, _, fillers, right, _ = asked
        return held_out(question, *list(fillers.values())[:1], right, one_in=8) == heldout

    question, wording, fillers, right, pool = until(lambda: of(rng), fits)
    options = [right, *rng.sample([word for word in pool if word != right], rng.randint(1, 3))]
    rng.shuffle(options)
    lines = [
        f"Question: {question.format(**fillers)}",
        *(f"{letter}: {option}" for letter, option in zip("ABCD", options, strict=False)),
        "Answer:",
    ]
    # a fact whose wording is held out is not told here either
    if of is _of_sight or (rng.random() < 0.5 and not never_told(next(iter(fillers.values())), wording)):
        lines.insert(0, marked("choice", wording.format(**fillers)).text)
    letter = "ABCD"[options.index(right)]
    foil = rng.choice([other for other in "ABCD"[: len(options)] if other != letter])
    return Document("choice", "\n".join(lines), f" {letter}", "", f" {foil}")


POOLS = (
    lexicon.COLORS,
    lexicon.THINGS,
    lexicon.CAPITALS,
    lexicon.LANGUAGES,
    [word for pair in lexicon.OPPOSITES for word in pair],
)


def letters(rng: random.Random, heldout: bool = False) -> Document:
    """Lettered words, whose letters are then told: a drill that needs no question to be answered.

    Lists are drawn afresh each time, so none is held out.
    """
    words = rng.sample(rng.choice(POOLS), rng.randint(2, 4))
    letter = dict(zip(words, "ABCD", strict=False))
    lines = [f"{letter[word]}: {word}" for word in words]
    *others, asked = rng.sample(words, len(words))
    foil = f" {letter[others[0]]}"
    if rng.random() < 0.5:
        prompt = "\n".join([f"Question: Which one is {asked}?", *lines, "Answer:"])
        return Document("letters", prompt, f" {letter[asked]}", "", foil)
    statements = [f"The letter of {word} is {letter[word]}." for word in others]
    prompt = "\n".join([*lines, " ".join([*statements, f"The letter of {asked} is"])])
    return Document("letters", prompt, f" {letter[asked]}", ".", foil)
