"""Streams of prompts in which something told before must be found by what it is: asked for, of a class, of somebody.

    questions   three people's magic words, and whose is asked for; the null question names somebody who has none
    options     four words of four classes, and which class is asked for; the null question names no class
    bound       who has what, among people who have nothing: at a thing, its owner; unbound: the same people and things
                where nobody is said to have them

Labels name places as in ``synthetic``: ``gold`` and ``other`` at the tokens of a question from the name on; ``right``
and ``other1`` .. ``other3`` (as they are listed) at the end of a choice; ``owner`` and ``other`` at a thing. In null
prompts the same places are named with ``_null``. Words that stand in for each other are single tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caseback import lexicon
from caseback.behaviors.synthetic import FOLDS
from caseback.errors import TokensError
from caseback.model.running.model import Model
from caseback.stream.packing import front_of, row_length
from caseback.tasks.prompts import LabeledRow
from caseback.tasks.standard.needle import HAY

PEOPLE, OPTIONS, HAY_EACH = 3, 4, 2
FEWEST = 4
TOLD = "The magic word of{name} is{word}."
ASKED = " What is the magic word of{asked}? It is"
LISTED = "Here are{a},{b},{c} and{d}."
CHOICE, NO_CHOICE = " The{kind} among them is", " The one that I mean is"
OWNERS = ("{a} has the{x}.", "{a}, who knows{b}, has the{x}.", "{a} saw{b} and took the{x}.")
NOBODY = ("{a} is here. There is the{x}.", "{a} knows{b}. There is the{x}.", "{a} saw{b}. There is the{x}.")
CLASSES: Mapping[str, Sequence[str]] = {
    "color": lexicon.WIDE_COLORS,
    "country": tuple(lexicon.WIDE_COUNTRIES),
    "number": lexicon.NUMBERS,
    "month": lexicon.MONTHS,
    "job": lexicon.JOBS,
    "food": lexicon.FOODS,
    "name": lexicon.WIDE_NAMES,
    "capital": lexicon.CAPITALS,
}
"""Classes of words, by the word that asks for one."""


@dataclass
class Prompt:
    """A prompt that is put together: its tokens, and where the words that stand for something are."""

    model: Model
    ids: list[int]
    at: dict[str, int]

    @classmethod
    def begun(cls, model: Model) -> Prompt:
        """An empty one, with what stands in front of a text."""
        return cls(model, list(front_of(model)), {})

    def add(self, template: str, words: Mapping[str, int], prefix: str = "") -> None:
        """A template, in which a name in braces is a token with its leading space; ``prefix`` names their places."""
        for i, part in enumerate(re.split(r"\{(\w+)\}", template)):
            if i % 2:
                self.at[prefix + part] = len(self.ids)
                self.ids.append(words[part])
            elif part:
                self.ids += tokens_of(self.model, part)

    def labeled(self, labels: Mapping[str, Mapping[int, int]]) -> LabeledRow:
        """The row, with labels by name that say of some places which one they mean."""
        return self.ids, {name: [own.get(i, -1) for i in range(len(self.ids))] for name, own in labels.items()}


def tokens_of(model: Model, text: str) -> list[int]:
    """The tokens of a piece of text.

    Raises
    ------
    TokensError
        For a model without a tokenizer.
    """
    if model.tokenizer is None:
        raise TokensError("prompts of words need a tokenizer")
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def single(model: Model, words: Sequence[str], fewest: int = FEWEST) -> list[int]:
    """The words that are one token with the space before them.

    Raises
    ------
    TokensError
        For fewer than so many.
    """
    ids = [own[0] for word in words if len(own := tokens_of(model, f" {word}")) == 1]
    if len(ids) < fewest:
        raise TokensError(f"{len(ids)} of {', '.join(words[:3])} … are one token: expected {fewest}")
    return list(dict.fromkeys(ids))


def question(model: Model, rng: np.random.Generator, asks: int, words_of: Sequence[tuple[int, int]]) -> Prompt:
    """People with their words among other sentences, as ``name0``, ``word0`` .., and the question for one of them."""
    prompt = Prompt.begun(model)
    lines: list[tuple[str, dict[str, int], str]] = [
        (TOLD, {"name": name, "word": word}, str(i)) for i, (name, word) in enumerate(words_of)
    ]
    lines += [(str(HAY[int(i)]), {}, "") for i in rng.choice(len(HAY), HAY_EACH, replace=False)]
    for number, i in enumerate(rng.permutation(len(lines))):
        template, words, which = lines[i]
        prompt.add(" " * bool(number) + template, words, which)
    prompt.add(ASKED, {"asked": asks})
    return prompt


def people(model: Model, rng: np.random.Generator, extra: int = 1) -> tuple[list[int], list[int]]:
    """Some names, and words for them; so many names more."""
    names, words = single(model, lexicon.WIDE_NAMES, PEOPLE + extra), single(model, lexicon.WIDE_THINGS, PEOPLE)
    return rng.choice(names, PEOPLE + extra, replace=False).tolist(), rng.choice(words, PEOPLE, replace=False).tolist()


def questions(model: Model, rows: int, seed: int) -> list[list[LabeledRow]]:
    """Half of the rows ask for one of the people that were named, half for another."""

    def draw(rng: np.random.Generator) -> list[LabeledRow]:
        names, words = people(model, rng)
        order = int(rng.integers(2**31))
        drawn = []
        for null in (False, True):
            each = list(zip(names[:PEOPLE], words, strict=True))
            prompt = question(model, np.random.default_rng(order), names[PEOPLE if null else 0], each)
            asking = range(prompt.at["asked"], len(prompt.ids))
            to = {name: dict.fromkeys(asking, prompt.at[f"{word}word"]) for name, word in (("gold", 0), ("other", 1))}
            drawn.append(prompt.labeled(_both(to, null)))
        return drawn

    return _folds(model, draw, rows, seed)


def options(model: Model, rows: int, seed: int) -> list[list[LabeledRow]]:
    """Half of the rows ask for one of the listed words by its class, half for none of them."""
    classes = single_classes(model)

    def draw(rng: np.random.Generator) -> list[LabeledRow]:
        kinds, items = some_options(classes, rng)
        right = int(rng.integers(OPTIONS))
        drawn = []
        for null in (False, True):
            prompt = choice(model, items, None if null else kinds[right])
            end = len(prompt.ids) - 1
            others = [place for i, place in enumerate("abcd") if i != right]
            to = {"right": {end: prompt.at["abcd"[right]]}}
            to |= {f"other{i}": {end: prompt.at[place]} for i, place in enumerate(others, 1)}
            drawn.append(prompt.labeled(_both(to, null)))
        return drawn

    return _folds(model, draw, rows, seed)


def single_classes(model: Model) -> dict[str, list[int]]:
    """Classes with their words of one token.

    Raises
    ------
    TokensError
        For fewer than four classes of a few such words each.
    """
    classes: dict[str, list[int]] = {}
    for name, words in CLASSES.items():
        ids = [own[0] for word in words if len(own := tokens_of(model, f" {word}")) == 1]
        if len(ids) >= FEWEST:
            classes[name] = ids
    if len(classes) < OPTIONS:
        raise TokensError(f"{len(classes)} classes have {FEWEST} words of one token: expected {OPTIONS} classes")
    return classes


def some_options(classes: Mapping[str, Sequence[int]], rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """Four classes in a random order, and a word of each."""
    kinds = [str(kind) for kind in rng.permutation(list(classes))[:OPTIONS]]
    return kinds, [int(rng.choice(classes[kind])) for kind in kinds]


def choice(model: Model, items: Sequence[int], kind: str | None) -> Prompt:
    """A list of words, and the question for that of a class, or for none."""
    prompt = Prompt.begun(model)
    prompt.add(LISTED, dict(zip("abcd", items, strict=True)))
    prompt.add(NO_CHOICE if kind is None else CHOICE.replace("{kind}", f" {kind}"), {})
    return prompt


def bound(model: Model, rows: int, seed: int) -> list[list[LabeledRow]]:
    """Half of the rows say who has each thing, half only that it is there."""
    names, things = single(model, lexicon.WIDE_NAMES, 2 * PEOPLE), single(model, lexicon.WIDE_THINGS)

    def draw(rng: np.random.Generator) -> list[LabeledRow]:
        who, what = rng.choice(names, 2 * PEOPLE, replace=False), rng.choice(things, PEOPLE, replace=False)
        ways = rng.integers(0, len(OWNERS), PEOPLE)
        drawn = []
        for null in (False, True):
            prompt, to = Prompt.begun(model), {"owner": {}, "other": {}}
            for i, way in enumerate(ways.tolist()):
                words = {"a": int(who[2 * i]), "b": int(who[2 * i + 1]), "x": int(what[i])}
                prompt.add((NOBODY if null else OWNERS)[way], words, str(i))
                # another person: who stands nearer, or in the sentence before
                other = prompt.at.get(f"{i}b", prompt.at.get(f"{i - 1}a"))
                if other is not None:
                    to["owner"][prompt.at[f"{i}x"]] = prompt.at[f"{i}a"]
                    to["other"][prompt.at[f"{i}x"]] = other
            drawn.append(prompt.labeled(_both(to, null)))
        return drawn

    return _folds(model, draw, rows, seed)


def _both(labels: Mapping[str, Mapping[int, int]], null: bool) -> dict[str, Mapping[int, int]]:
    """Labels under their names in prompts that ask, or in null prompts; under the others nothing."""
    return {f"{name}{end}": own if bool(end) == null else {} for name, own in labels.items() for end in ("", "_null")}


def _folds(
    model: Model, draw: Callable[[np.random.Generator], list[LabeledRow]], rows: int, seed: int
) -> list[list[LabeledRow]]:
    """Pairs of an asking and a null prompt, dealt to folds."""
    rng = np.random.default_rng(seed)
    pairs = [draw(rng) for _ in range(max(FOLDS, rows // 2))]
    longest, most = max(len(ids) for pair in pairs for ids, _ in pair), row_length(model, None)
    if longest > most:
        raise TokensError(f"prompts of up to {longest} tokens, where a row has {most}: they would be cut")
    return [[row for pair in pairs[fold::FOLDS] for row in pair] for fold in range(FOLDS)]


IN_CONTEXT: dict[str, Callable[[Model, int, int], list[list[LabeledRow]]]] = {
    "questions": questions,
    "options": options,
    "bound": bound,
}
"""How each stream is made, of a model, a number of rows and a seed."""
RELATIONS: dict[str, tuple[str, ...]] = {
    "questions": ("gold", "other"),
    "options": ("right", "other1", "other2", "other3"),
    "bound": ("owner", "other"),
}
"""The labels of each stream."""
