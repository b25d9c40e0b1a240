"""Needle in a haystack: something said once among other sentences, long before it is asked for. (PRIMER 5.4.25)

    The chair near the lake was old. … The magic word of Rosa is pink. … What is the magic word of Rosa? It is ->  pink

The counterfactual says another word there. Where a second person has a magic word too, the two words change places.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from caseback.errors import CasebackError, TokensError
from caseback.lexicon import NUMBERS, PLACES, STATES, WIDE_COLORS, WIDE_ERAS, WIDE_ITEMS, WIDE_NAMES, WIDE_THINGS
from caseback.tasks.align import tokenizer_of
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task
from caseback.tasks.text import Text, fill

NEEDLES = ("The magic word of {name} is {word}.", "{name} chose the magic word {word}.")
QUESTIONS = ("The magic word of {name} is", "What is the magic word of {name}? It is")
HAY = (
    *(
        f"The {item} near the {place} was {STATES[(7 * i + j) % len(STATES)]}."
        for i, (item, _) in enumerate(WIDE_ITEMS)
        for j, place in enumerate(PLACES)
    ),
    *(
        f"The {noun} began in the year {1100 + 37 * i} and ended in the year {1141 + 37 * i}."
        for i, noun in enumerate(WIDE_ERAS)
    ),
)
OPENING = 1
"""How many tokens are reserved for a special one at the beginning."""


def needle(
    *, length: int = 100, depth: float | None = None, distractors: int = 1, haystack: Sequence[str] = HAY
) -> Task:
    """One person's magic word, asked for at the end.

    Positions: ``word`` (the needle), ``name`` (whose it is), ``distractor`` (the word of the first other person, if
    there is one), ``asked`` (the name in the question), ``end``.

    Parameters
    ----------
    length
        Tokens per prompt at most; sentences are added as long as one fits.
    depth
        The share of the sentences that come before the needle, 0 to 1; by default drawn for each example.
    distractors
        Other people with magic words, 0 to 3. The foil is the first one's word, or, if there is none, a word that only
        the counterfactual tells.
    haystack
        The sentences to draw from.

    Raises
    ------
    CasebackError
        For a depth or number out of range.

    References
    ----------
    Kamradt 2023, "Needle in a haystack"; Wu et al. 2024, "Retrieval head mechanistically explains long-context
    factuality".

    Examples
    --------
    >>> import caseback as cb
    >>> prompts = needle(length=60, depth=0.0).prompts(cb.load("meadow"), 10)
    >>> 50 < int(prompts.clean.lengths.min()) <= int(prompts.clean.lengths.max()) <= 60
    True
    """
    if depth is not None and not 0 <= depth <= 1:
        raise CasebackError(f"depth {depth}: expected a share from 0 to 1")
    if not 0 <= distractors <= 3:
        raise CasebackError(f"{distractors} distractors: expected 0 to 3")
    if not haystack:
        raise CasebackError("the haystack is empty: give at least one sentence")

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        people = rng.sample(list(fillers["names"]), 1 + distractors)
        words = rng.sample(list(fillers["words"]), 1 + max(1, distractors))
        needles = [rng.choice(fillers["needles"]) for _ in people]
        question, asks = rng.choice(fillers["questions"])
        room = length - OPENING - asks - sum(long for _, long in needles)
        if room < 0:
            raise TokensError(f"needle: {length} tokens are {-room} too few for question and needles: raise length")
        sentences = [Text(hay) for hay in _fitting(rng, fillers["hay"], room)]
        at = round((rng.random() if depth is None else depth) * len(sentences))
        places = [at, *(rng.randint(0, len(sentences)) for _ in people[1:])]

        def prompt(words: list[str]) -> Text:
            pieces = list(sentences)
            filled = [
                _needle_text(number, template, person, word)
                for number, ((template, _), person, word) in enumerate(zip(needles, people, words, strict=False))
            ]
            # inserted from the last place to the first, so that the earlier places stay valid
            for place, text in sorted(zip(places, filled, strict=True), key=lambda both: -both[0]):
                pieces.insert(place, text)
            whole = pieces[0]
            for text in [*pieces[1:], fill(question.replace("{name}", "{asked}"), asked=people[0])]:
                whole = whole.then(" ").then(text)
            return whole

        swapped = [words[1], words[0], *words[2:]]
        return Pair.of(
            prompt(words),
            prompt(swapped),
            f" {words[0]}",
            f" {words[1]}",
            corrupt_target=f" {words[1]}",
            group=f"depth {at / max(1, len(sentences)):.1f}",
        )

    return Task(
        "needle",
        "A word told once among other sentences and asked for at the end, over another word.",
        draw,
        {
            "names": WIDE_NAMES,
            "words": list(dict.fromkeys(WIDE_THINGS + WIDE_COLORS + NUMBERS)),
            "needles": _counted(NEEDLES),
            "questions": _counted(QUESTIONS),
            "hay": _counted(haystack),
        },
        entry="5.4.25",
        citation="Kamradt 2023; Wu et al. 2024",
        needs={"names": 1 + distractors, "words": 1 + max(1, distractors)},
    )


def _counted(texts: Sequence[str]) -> Callable[[Any], list[tuple[str, int]]]:
    """A filler function: the texts, each with its number of tokens after another sentence (a name or word is one)."""

    def counted(model: Any) -> list[tuple[str, int]]:
        encode = lambda texts: tokenizer_of(model)(texts, add_special_tokens=False)["input_ids"]  # noqa: E731
        (before,) = encode(["So."])
        filled = [text.replace("{name}", "the").replace("{word}", "the") for text in texts]
        long = [len(ids) - len(before) for ids in encode([f"So. {text}" for text in filled])]
        return list(zip(texts, long, strict=True))

    return counted


def _fitting(rng: random.Random, hay: Sequence[tuple[str, int]], room: int) -> list[str]:
    """Sentences drawn one after the other until not even the shortest fits."""
    texts, shortest, longest = [], min(long for _, long in hay), max(long for _, long in hay)
    while room >= shortest:
        text, long = rng.choice(hay if room >= longest else [one for one in hay if one[1] <= room])
        texts.append(text)
        room -= long
    return texts


def _needle_text(number: int, template: str, person: str, word: str) -> Text:
    """The needle of one person: number 0 is the person asked about, number 1 the first distractor."""
    if number == 0:
        return fill(template, name=person, word=word)
    text = template.replace("{name}", person)
    return (
        fill(text.replace("{word}", "{distractor}"), distractor=word)
        if number == 1
        else Text(text.replace("{word}", word))
    )
