"""Multiple choice: lettered options; the answer is the letter of the right one. (PRIMER 5.4.8)

    Question: What is the capital of France?
    A: Rome
    B: Paris
    Answer: ->  B

The counterfactual puts the right option in another's place, whose letter is then right.
"""

from __future__ import annotations

import random

from caseback.errors import CasebackError
from caseback.lexicon import WIDE_COLORS, WIDE_THINGS
from caseback.tasks.facts import RELATIONS
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task, another
from caseback.tasks.text import fill

QUESTIONS = {
    "capital": ("The capital of {subject} is {answer}.", "What is the capital of {subject}?"),
    "language": ("In {subject}, most people speak {answer}.", "What do people speak in {subject}?"),
    "opposite": ("The opposite of {subject} is {answer}.", "What is the opposite of {subject}?"),
    "color": ("The {subject} is {answer}.", "What color is the {subject}?"),
}
LETTERS = "ABCD"
SOURCES = ("context", "memory", "both")


def multiple_choice(*, options: int = 3, source: str = "both", of: tuple[str, ...] = tuple(QUESTIONS)) -> Task:
    """The letter of the right option.

    Positions: ``option1``, ``option2``, … (the words), ``letter1`` … (before them), ``asked`` (the question's
    subject), ``told`` (the answer in the sentence before, where all prompts have one), ``end``. The foil is the letter
    that is right in the counterfactual.

    Parameters
    ----------
    options
        How many options, 2 to 4.
    source
        ``"context"``: a sentence before the question tells the answer; ``"memory"``: nothing does; or ``"both"`` kinds.
    of
        What is asked for: any of ``capital language opposite color``; colors are always told.

    Raises
    ------
    CasebackError
        For another number of options, an unknown source or question, or colors from memory.

    References
    ----------
    Lieberum et al. 2023, "Does circuit analysis interpretability scale?".

    Examples
    --------
    >>> pair = multiple_choice(options=2, of=("capital",)).draw(random.Random(0), {"capital": [("France", "Paris"),
    ...     ("Italy", "Rome")]})
    >>> sorted(pair.target + pair.foil)
    [' A', ' B']
    """
    if not 2 <= options <= len(LETTERS):
        raise CasebackError(f"{options} options: expected 2 to {len(LETTERS)}")
    if source not in SOURCES:
        raise CasebackError(f"source {source!r} is unknown: expected one of {', '.join(SOURCES)}")
    unknown = [name for name in of if name not in QUESTIONS]
    if unknown or not of:
        raise CasebackError(f"questions {', '.join(unknown) or 'are none'}: expected some of {', '.join(QUESTIONS)}")
    if source == "memory":
        of = tuple(name for name in of if name != "color")
        if not of:
            raise CasebackError("the color of a thing is in nobody's memory: ask with source='context'")

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        kind = rng.choice(of)
        if kind == "color":
            subject, answer = rng.choice(fillers["things"]), rng.choice(fillers["colors"])
            pool = list(fillers["colors"])
        else:
            subject, answer = rng.choice(fillers[kind])
            pool = sorted({word for _, word in fillers[kind]} - {subject})
        words = [answer]
        while len(words) < options:
            words.append(another(rng, pool, *words))
        rng.shuffle(words)
        right = words.index(answer)
        wrong = another(rng, range(options), right)
        moved = [{right: words[wrong], wrong: answer}.get(i, word) for i, word in enumerate(words)]
        stated = source == "context" or kind == "color" or (source == "both" and rng.random() < 0.5)
        statement, question = QUESTIONS[kind]
        lines = [
            *([statement.replace("{answer}", "{told}").replace("{subject}", subject)] if stated else []),
            f"Question: {question.replace('{subject}', '{asked}')}",
            *(f"{{letter{i}}}: {{option{i}}}" for i in range(1, options + 1)),
            "Answer:",
        ]
        template = "\n".join(lines)
        letters = {f"letter{i}": letter for i, letter in enumerate(LETTERS[:options], 1)}
        return Pair.of(
            fill(template, asked=subject, told=answer, **letters, **_numbered(words)),
            fill(template, asked=subject, told=answer, **letters, **_numbered(moved)),
            f" {LETTERS[right]}",
            f" {LETTERS[wrong]}",
            corrupt_target=f" {LETTERS[wrong]}",
            group=f"{kind} {'told' if stated else 'known'} {LETTERS[right]}",
        )

    lists = {name: RELATIONS[name].facts for name in of if name != "color"}
    return Task(
        "multiple_choice",
        "A question and lettered options: the letter of the right one over that of a wrong one.",
        draw,
        lists | ({"things": WIDE_THINGS, "colors": WIDE_COLORS} if "color" in of else {}),
        entry="5.4.8",
        citation="Lieberum et al. 2023",
        needs=options,
    )


def _numbered(words: list[str]) -> dict[str, str]:
    return {f"option{i}": word for i, word in enumerate(words, 1)}
