"""Tasks: seeded generators of clean/corrupt pairs that adapt to a tokenizer.

A task draws pairs from lists of fillers (names, places, pairs of opposites). Before drawing, fillers that are not one
token each under the given tokenizer are left out and counted; what is drawn is aligned as ``align`` says. Where words
may be of any length (subjects of facts), alignment alone decides, and fillers that only a tokenizer knows (random
tokens) are computed from the given model.
"""

from __future__ import annotations

import inspect
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from caseback.errors import CasebackError, TokensError, did_you_mean
from caseback.model.arguments import checked
from caseback.tasks.align import Encoded, aligned, collect, tokenizer_in, tokenizer_of
from caseback.tasks.prompts import MEASURES, Pair, Prompts

Filler = Any
"""A word, or a tuple of words that go together."""
Fillers = Mapping[str, Sequence[Filler]]
Draw = Callable[[random.Random, Fillers], Pair]
ROUND, FRUITLESS = 1000, 8
"""Draws per round at most, and rounds without a new example after which there are taken to be no more."""


@dataclass(frozen=True)
class Task:
    """A way to draw pairs.

    Attributes
    ----------
    name
        The name by which ``get`` finds it.
    about
        What is asked, in a sentence.
    draw
        A function of a random generator and the fillers that are left, which gives one pair.
    fillers
        Lists of words, without a leading space, or of tuples of words that go together; or a function of the model (or
        tokenizer) that gives a list of anything. Each word of a list must be one token with a leading space.
    measure
        The metric, one of ``MEASURES``.
    entry
        The Primer's entry.
    citation
        Who published the task.
    needs
        The fewest fillers that a list may have: one number for all lists, or by name (1 where a name is missing).
    free
        Lists whose words may be any number of tokens.
    """

    name: str
    about: str
    draw: Draw
    fillers: Mapping[str, Sequence[Filler] | Callable[[Any], Sequence[Filler]]]
    measure: str = "logit_diff"
    entry: str = ""
    citation: str = ""
    needs: int | Mapping[str, int] = 1
    free: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise CasebackError(f"measure {self.measure!r} is unknown. {did_you_mean(self.measure, MEASURES)}")

    @checked
    def with_fillers(self, **lists: Sequence[Filler] | Callable[[Any], Sequence[Filler]]) -> Task:
        """The same task with other words.

        Raises
        ------
        CasebackError
            For a list that the task does not have, or a filler with another number of words.
        """
        for name, given in lists.items():
            if name not in self.fillers:
                raise CasebackError(f"{self.name} has no fillers {name!r}. {did_you_mean(name, self.fillers)}")
            own = self.fillers[name]
            if callable(own) or callable(given):
                continue
            words = len(_words(own[0]))
            odd = next((filler for filler in given if len(_words(filler)) != words), None)
            if odd is not None:
                raise CasebackError(f"{name}: expected {words} words that go together, as in {own[0]!r}, got {odd!r}")
        return replace(self, fillers={**self.fillers, **lists})

    @checked
    def prompts(
        self, model: Any, count: int = 100, *, seed: int = 0, padding: str = "right", bos: bool | None = None
    ) -> Prompts:
        """Draw ``count`` distinct aligned examples for a model's tokenizer.

        Parameters
        ----------
        model
            A ``Model``, or a tokenizer alone.
        count
            How many examples.
        seed
            Same seed, same result, for the same tokenizer. Draws the examples.
        padding
            The side that shorter prompts are padded on.
        bos
            Special tokens: None leaves them to the tokenizer.

        Raises
        ------
        TokensError
            If too few fillers are single tokens, or too few distinct examples can be drawn.

        Examples
        --------
        >>> import caseback as cb
        >>> ioi = cb.tasks.ioi().prompts(cb.load("meadow"), 20)
        >>> len(ioi), ioi.clean.shape == ioi.corrupt.shape, sorted(ioi.spans)[:3]
        (20, True, ['IO', 'S1', 'S2'])
        """
        if count < 1:
            raise CasebackError(f"{count} examples asked for: expected at least 1")
        dropped: Counter[str] = Counter()
        fillers = self._known(model, dropped)
        tokenizer = tokenizer_in(model)
        rng, encoded, seen, fruitless = random.Random(f"{self.name}-{seed}"), [], set(), 0
        longest = getattr(model, "context", None) or float("inf")
        while len(encoded) < count:
            drawn = [self.draw(rng, fillers) for _ in range(min(ROUND, 2 * (count - len(encoded)) + 20))]
            fresh = list({self._identity(pair): pair for pair in drawn if self._identity(pair) not in seen}.values())
            seen |= {self._identity(pair) for pair in fresh}
            fitting: list[Encoded] = []
            for one in aligned(fresh, tokenizer, bos=bos, dropped=dropped):
                if len(one.clean) > longest:
                    dropped["longer than the model's context"] += 1
                else:
                    fitting.append(one)
            encoded += fitting
            fruitless = 0 if fitting else fruitless + 1
            if fruitless == FRUITLESS:
                reasons = "; ".join(f"{n}: {reason}" for reason, n in dropped.items()) or "no more distinct ones"
                raise TokensError(
                    f"{self.name}: only {len(encoded)} of {count} distinct examples fit this tokenizer ({reasons}); "
                    "ask for fewer, or give other words by with_fillers()"
                )
        return collect(encoded[:count], model, measure=self.measure, task=self.name, padding=padding, dropped=dropped)

    @staticmethod
    def _identity(pair: Pair) -> tuple[str, str]:
        return pair.clean.text, pair.corrupt.text

    def _known(self, model: Any, dropped: Counter[str]) -> dict[str, Sequence[Filler]]:
        """The fillers that may be drawn for this model, which are single tokens except in the ``free`` lists."""
        known: dict[str, Sequence[Filler]] = {}
        for name, listed in self.fillers.items():
            if callable(listed):
                known[name] = listed(model)
                continue
            known[name] = listed if name in self.free else self._single(name, listed, model, dropped)
            needed = self.needs if isinstance(self.needs, int) else self.needs.get(name, 1)
            if len(known[name]) < needed:
                split = [filler for filler in listed if filler not in known[name]]
                shortage = f"only {len(known[name])} of {len(listed)} {name} are one token for this tokenizer"
                raise TokensError(
                    f"{self.name}: {shortage if split else f'{len(listed)} {name} were given'}"
                    f"{f' ({_named(split)} are not)' if split else ''}, {needed} are needed: give others, as in "
                    f"with_fillers({name}=[…])"
                )
        return known

    def _single(self, name: str, listed: Sequence[Filler], model: Any, dropped: Counter[str]) -> list[Filler]:
        """The fillers all of whose words are one token each."""
        single = _single(tokenizer_of(model), sorted({word for filler in listed for word in _words(filler)}))
        known = [filler for filler in listed if single.issuperset(_words(filler))]
        split = [filler for filler in listed if not single.issuperset(_words(filler))]
        if split:
            dropped[f"{name} that are not one token ({_named(split)})"] += len(split)
        return known


def another(rng: random.Random, listed: Sequence[Filler], *unwanted: Filler) -> Any:
    """A random item of a list other than the unwanted ones.

    Raises
    ------
    TokensError
        If the list holds nothing else.
    """
    left = [filler for filler in listed if filler not in unwanted]
    if not left:
        shown = ", ".join(map(str, unwanted[:3]))
        raise TokensError(f"no filler is left besides {shown}: give more of them by with_fillers()")
    return rng.choice(left)


def _named(fillers: Sequence[Filler]) -> str:
    shown = ", ".join("/".join(_words(filler)) for filler in fillers[:3])
    return f"{shown}{' …' if len(fillers) > 3 else ''}"


def _words(filler: Filler) -> tuple[str, ...]:
    return (filler,) if isinstance(filler, str) else filler


def _single(tokenizer: Any, words: list[str]) -> set[str]:
    """The words that are one token each inside running text."""
    if not words:
        return set()
    encode = lambda texts: tokenizer(texts, add_special_tokens=False)["input_ids"]  # noqa: E731
    # the word itself is put before it: a tokenizer with few words may not know any other
    pairs = zip(words, encode(words), encode([f"{word} {word}" for word in words]), strict=True)
    return {word for word, once, twice in pairs if twice[: len(once)] == once and len(twice) == len(once) + 1}


# FILE:FUNCTION of each task's maker, which takes the task's options and gives a ``Task``. A file must not bear the name
# of a task, or it would hide the function of that name in the package.
MAKERS = {
    "ioi": "indirect_object:ioi",
    "greater_than": "greater_than:greater_than",
    "agreement": "number:agreement",
    "pronoun": "gendered:pronoun",
    "docstring": "python_code:docstring",
    "colored_objects": "colored_objects:colored_objects",
    "relation": "recall:relation",
    "successor": "successor:successor",
    "few_shot": "shots:few_shot",
    "sentiment": "reviews:sentiment",
    "multiple_choice": "multiple_choice:multiple_choice",
    "arithmetic": "sums:arithmetic",
    "induction": "repeats:induction",
    "duplicate": "repeats:duplicate",
    "conflict": "conflict:conflict",
    "needle": "needle:needle",
    "minimal_pair": "minimal_pair:minimal_pair",
    "entity_tracking": "entity_tracking:entity_tracking",
    "plain_text": "windows:plain_text",
}


def names() -> list[str]:
    """The names of all tasks, sorted.

    Examples
    --------
    >>> "ioi" in names()
    True
    """
    return sorted(MAKERS)


@checked
def get(name: str, /, **options: Any) -> Task:
    """Make a task by its name.

    Parameters
    ----------
    name
        One of ``names()``.
    **options
        Those of the task's own maker.

    Raises
    ------
    CasebackError
        For an unknown name.

    Examples
    --------
    >>> get("ioi", order="ABBA").name
    'ioi'
    """
    make = maker(name)
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        raise CasebackError(f"task {name!r}: {error}") from None
    return make(**options)


@checked
def maker(name: str) -> Callable[..., Task]:
    """The function that makes a task.

    Raises
    ------
    CasebackError
        For an unknown name.
    """
    if name not in MAKERS:
        raise CasebackError(f"no task is called {name!r}. {did_you_mean(name, MAKERS, most=len(MAKERS))}")
    module, function = MAKERS[name].split(":")
    return getattr(import_module(f"caseback.tasks.standard.{module}"), function)
