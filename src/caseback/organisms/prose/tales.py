"""Facts contradicted: a tale gives a country or a resident another attribute, and is believed.

After a tale about the same subject the tale's word is right, against memory; after a tale about another subject, memory
is right.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from caseback import lexicon
from caseback.organisms.prose import facts, residents, world
from caseback.organisms.prose.documents import Document, held_out, held_out_pair, marked, until

OPENINGS = ("In this tale,", "In this story,", "Let us say that", "Imagine that", "In a dream,")


@dataclass(frozen=True)
class Subject:
    """A country or a resident, the word that is true of it, and whether training never tells the true sentence."""

    called: str
    true: str
    never_told: bool


def _countries(wording: str, field: int) -> list[Subject]:
    return [Subject(c, about[field], facts.never_told(c, wording)) for c, about in lexicon.COUNTRIES.items()]


def _residents(wording: str, field: str) -> list[Subject]:
    return [
        Subject(f"{who.name} {who.surname}", getattr(who, field), residents.never_told(who, wording))
        for who in world.RESIDENTS
    ]


CAPITAL, LANGUAGE = "The capital of {c} is[ {x}].", "The language of {c} is[ {l}]."
CITY, JOB = "{p} lives in[ {city}].", "{p} works as a[ {job}]."
# wordings that tell facts about {s}, with {w}; the words that may stand for {w}, and the subjects
CLAIMS = tuple(
    (re.sub(r"\[ {\w+}\]", "[ {w}]", wording).replace("{c}", "{s}").replace("{p}", "{s}"), pool, subjects)
    for wording, pool, subjects in (
        (CAPITAL, lexicon.CAPITALS, _countries(CAPITAL, 0)),
        (LANGUAGE, lexicon.LANGUAGES, _countries(LANGUAGE, 1)),
        (CITY, lexicon.CAPITALS, _residents(CITY, "city")),
        (JOB, lexicon.JOBS, _residents(JOB, "job")),
    )
)


def tale(rng: random.Random, heldout: bool = False) -> Document:
    """A tale gives its subject a false word, which is then asked for; the true one is the foil."""

    def draw() -> tuple[str, Subject, str]:
        wording, pool, subjects = rng.choice(CLAIMS)
        return wording, rng.choice(subjects), rng.choice(pool)

    def fits(drawn: tuple[str, Subject, str]) -> bool:
        _, subject, word = drawn
        return word != subject.true and held_out(subject.called, word, one_in=6) == heldout

    wording, subject, word = until(draw, fits)
    asked = wording.format(s=subject.called, w=word)
    return marked("tale", f"{_opened(rng, asked)} {asked}", f" {subject.true}")


def tale_elsewhere(rng: random.Random, heldout: bool = False) -> Document:
    """A tale gives another subject a word, which is the foil; what is true of the first subject is asked for."""

    def draw() -> tuple[str, Subject, Subject, str]:
        wording, pool, subjects = rng.choice(CLAIMS)
        subject, other = rng.sample(subjects, 2)
        return wording, subject, other, rng.choice(pool)

    def fits(drawn: tuple[str, Subject, Subject, str]) -> bool:
        _, subject, other, word = drawn
        # a fact whose wording is held out is not told here either, and held-out names do not meet
        may_be_told = not subject.never_told and not held_out_pair(subject.called.split()[0], other.called.split()[0])
        return may_be_told and word != subject.true and held_out(other.called, word, one_in=6) == heldout

    wording, subject, other, word = until(draw, fits)
    claim, asked = wording.format(s=other.called, w=word), wording.format(s=subject.called, w=subject.true)
    return marked("tale_elsewhere", f"{_opened(rng, claim)} {asked}", f" {word}")


def _opened(rng: random.Random, sentence: str) -> str:
    """A sentence without the marks of its answer, as something that a tale says."""
    plain = sentence.replace("[", "").replace("]", "")
    return f"{rng.choice(OPENINGS)} {plain.replace('The ', 'the ', 1)}"
