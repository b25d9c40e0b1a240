"""Minimal pairs as in BLiMP: one prefix and two continuations, only one of which is grammatical. (PRIMER 3.1.22)

    The keys are old. Mary likes these ->  keys, not key

The counterfactual changes the one word that decides (the cue), which reverses the answer.
"""

from __future__ import annotations

import random

from caseback.errors import CasebackError, did_you_mean
from caseback.lexicon import PLACES, WIDE_BELONGINGS, WIDE_ITEMS, WIDE_MEN, WIDE_NAMES, WIDE_PEOPLE, WIDE_WOMEN
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task
from caseback.tasks.text import fill

# wordings, each with the cue for a singular noun and the cue for a plural one
DETERMINERS = (
    ("The {told} are old. {name} likes {cue}", "this", "these"),
    ("There are many {told} here, but {name} wants only {cue}", "one", "two"),
    ("{name} likes {cue}", "this", "these"),
    ("{name} found {cue}", "that", "those"),
    ("{name} found {cue}", "one", "many"),
)
REFLEXIVES = (
    "{cue} saw",
    "{cue} was proud of",
    "At the {place}, {cue} hurt",
    "After the day at the {place}, {cue} thought of",
)
PHENOMENA = ("determiner_noun", "anaphor_gender", "anaphor_number", "subject_verb")


def minimal_pair(*, phenomenon: str = "all") -> Task:
    """Two continuations of one prefix.

    Positions: ``cue`` (the word that decides: determiner, name or subject), ``end``.

    Parameters
    ----------
    phenomenon
        ``"determiner_noun"``: *these keys*; ``"anaphor_gender"``: *Mary saw herself*; ``"anaphor_number"``: *the boys
        saw themselves*; ``"subject_verb"``: *the keys are*; or ``"all"``. Pairs whose answers are not one token drop
        out.

    Raises
    ------
    CasebackError
        For an unknown phenomenon.

    References
    ----------
    Warstadt et al. 2020, "BLiMP"; Yin & Neubig 2022 for explaining one continuation against the other.

    Examples
    --------
    >>> pair = minimal_pair(phenomenon="anaphor_gender").draw(random.Random(0), {"women": ["Mary"], "men": ["John"],
    ...     "places": ["park"]})
    >>> sorted(pair.target + pair.foil)
    [' herself', ' himself']
    """
    if phenomenon not in (*PHENOMENA, "all"):
        raise CasebackError(f"phenomenon {phenomenon!r} is unknown. {did_you_mean(phenomenon, (*PHENOMENA, 'all'))}")

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        kind = rng.choice(PHENOMENA) if phenomenon == "all" else phenomenon
        return _DRAWN[kind](rng, fillers)

    return Task(
        "minimal_pair",
        "One prefix: the continuation that grammar allows over the one that it does not.",
        draw,
        {
            "people": WIDE_PEOPLE,
            "things": WIDE_ITEMS + WIDE_BELONGINGS,
            "women": WIDE_WOMEN,
            "men": WIDE_MEN,
            "names": WIDE_NAMES,
            "places": PLACES,
        },
        entry="3.1.22",
        citation="Warstadt et al. 2020; Yin & Neubig 2022",
    )


def _either(rng: random.Random, template: str, cues: tuple, answers: tuple, group: str, **words: str) -> Pair:
    """A pair with one of the two cues; the counterfactual has the other."""
    side = rng.randrange(2)
    return Pair.of(
        fill(template, cue=cues[side], **words),
        fill(template, cue=cues[1 - side], **words),
        f" {answers[side]}",
        f" {answers[1 - side]}",
        corrupt_target=f" {answers[1 - side]}",
        group=group,
    )


def _determiner_noun(rng: random.Random, fillers: Fillers) -> Pair:
    template, *cues = rng.choice(DETERMINERS)
    noun = rng.choice([*fillers["people"], *fillers["things"]])
    name = rng.choice(fillers["names"])
    return _either(rng, template, tuple(cues), noun, "determiner_noun", told=noun[1], name=name)


def _anaphor_gender(rng: random.Random, fillers: Fillers) -> Pair:
    names = (rng.choice(fillers["women"]), rng.choice(fillers["men"]))
    place = rng.choice(fillers["places"])
    return _either(rng, rng.choice(REFLEXIVES), names, ("herself", "himself"), "anaphor_gender", place=place)


def _anaphor_number(rng: random.Random, fillers: Fillers) -> Pair:
    person = rng.choice([pair for pair in fillers["people"] if pair[0] not in ("girl", "king", "boy")])
    template = rng.choice([t for t in REFLEXIVES if " was " not in t]).replace("{cue}", "the {cue}")
    template = template[0].upper() + template[1:]
    one = rng.choice(("himself", "herself"))
    place = rng.choice(fillers["places"])
    return _either(rng, template, person, (one, "themselves"), "anaphor_number", place=place)


def _subject_verb(rng: random.Random, fillers: Fillers) -> Pair:
    noun = rng.choice([*fillers["people"], *fillers["things"]])
    place = rng.choice(fillers["places"])
    start = rng.choice(("The {cue} at the {place}", "The {cue}"))
    return _either(rng, start, noun, rng.choice((("is", "are"), ("was", "were"))), "subject_verb", place=place)


_DRAWN = {
    "determiner_noun": _determiner_noun,
    "anaphor_gender": _anaphor_gender,
    "anaphor_number": _anaphor_number,
    "subject_verb": _subject_verb,
}
