"""Facts as prompts, and another subject in the same place as their counterfactual.

    The Space Needle is in the city of ->  Seattle
    The Eiffel Tower is in the city of ->  Paris

The other subject comes from the same relation and has another answer. Only a tokenizer knows which subjects have
equally many tokens and which answers are one token: with one, partners are drawn among those; without one, ``align``
leaves most pairs out.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from caseback.errors import LoadError
from caseback.tasks.align import tokenizer_of
from caseback.tasks.formats.reading import Examples, choose
from caseback.tasks.prompts import Pair
from caseback.tasks.text import Text

CORRUPTIONS = ("subject", "none")
ALONE = "no other subject of its relation has another answer, as many tokens and a single-token answer"


@dataclass(frozen=True)
class Fact:
    """A prompt about a subject, and what follows.

    Attributes
    ----------
    before, subject, after
        The prompt in three parts.
    answer
        What follows, without a leading space.
    against
        The answer to contrast with; empty for the other subject's.
    relation
        Subjects are exchanged within it.
    name
        What the subject's position is called.
    shown
        Subjects that may not take its place.
    """

    before: str
    subject: str
    after: str
    answer: str
    against: str = ""
    relation: str = ""
    name: str = "subject"
    shown: frozenset[str] = frozenset()

    def about(self, subject: str) -> Text:
        """The prompt with a subject in its place."""
        start, after = len(self.before), self.after.rstrip()
        return Text(self.before + subject + after, {self.name: (start, start + len(subject))} if subject else {})


def pairs_of(
    facts: Sequence[Fact],
    *,
    path: Any,
    corruption: str = "subject",
    model: Any = None,
    seed: int = 0,
    limit: int | None = None,
    dropped: Counter[str] | None = None,
) -> Examples[Pair]:
    """Make one pair per fact.

    Parameters
    ----------
    facts
        The facts; other subjects are drawn from them too.
    path
        The file, for messages.
    corruption
        ``"subject"``: another subject of the relation with another answer, which is the foil unless the fact has its
        own (a subject whose answer is that foil is preferred). ``"none"``: corrupt is the prompt itself, for techniques
        that make their own corruption, as causal tracing does with noise.
    model
        A ``Model`` or a tokenizer: partners are then as many tokens long, and their answers one token.
    seed
        Same seed, same result. Draws the partners.
    limit
        Stop after so many pairs.
    dropped
        How many were left out before, by reason; the result's counts include these.

    Raises
    ------
    LoadError
        For an unknown corruption, or if no fact has a partner.
    """
    choose("corruption", corruption, CORRUPTIONS)
    pairs: Examples[Pair] = Examples((), dropped)
    partners = _partners(facts, model, random.Random(seed)) if corruption == "subject" else [None] * len(facts)
    for fact, other in zip(facts, partners, strict=True):
        if limit is not None and len(pairs) == limit:
            break
        clean = fact.about(fact.subject)
        if corruption == "none":
            pairs.append(Pair.of(clean, clean, _spaced(fact.answer), _spaced(fact.against), group=fact.relation))
        elif other is None:
            pairs.dropped[ALONE] += 1
        else:
            answers = _spaced(fact.answer), _spaced(fact.against or other.answer)
            corrupt = fact.about(other.subject)
            pairs.append(Pair.of(clean, corrupt, *answers, corrupt_target=_spaced(other.answer), group=fact.relation))
    if not pairs:
        raise LoadError(f"{path} gives no pair ({len(facts)} facts; {ALONE}): try corruption='none'")
    return pairs


def one_token_answers(answers: Sequence[str], model: Any) -> list[str]:
    """The answers that are one token inside a text; all of them without a tokenizer."""
    if model is None or not answers:
        return list(answers)
    (before,), encoded = (
        tokenizer_of(model)(texts, add_special_tokens=False)["input_ids"]
        for texts in (["so"], [f"so {answer}" for answer in answers])
    )
    return [answer for answer, ids in zip(answers, encoded, strict=True) if len(ids) == len(before) + 1]


def _spaced(answer: str) -> tuple[str, ...]:
    return (f" {answer}",) if answer else ()


def _partners(facts: Sequence[Fact], model: Any, rng: random.Random) -> list[Fact | None]:
    """Per fact, a partner of the same relation: another answer, another subject with as many tokens; or None."""
    sizes, sayable = _sizes(facts, model), set(one_token_answers([fact.answer for fact in facts], model))
    alike, answering = defaultdict(list), defaultdict(list)
    for fact, size in zip(facts, sizes, strict=True):
        if fact.answer not in sayable:
            continue
        # A subject that opens a prompt has no space before it, which changes how it is cut.
        for inside in (False, True):
            alike[fact.relation, inside, size[inside]].append(fact)
            answering[fact.relation, inside, size[inside], fact.answer].append(fact)
    partners: list[Fact | None] = []
    for fact, size in zip(facts, sizes, strict=True):
        key = fact.relation, bool(fact.before), size[bool(fact.before)]
        partner = _other(answering[(*key, fact.against)], fact, rng) if fact.against else None
        partners.append(partner or _other(alike[key], fact, rng))
    return partners


def _sizes(facts: Sequence[Fact], model: Any) -> list[tuple[int, int]]:
    """How many tokens each subject is at the beginning of a text, and inside one."""
    if model is None or not facts:
        return [(0, 0)] * len(facts)
    encode = tokenizer_of(model)
    alone, inside = (
        encode([start + fact.subject for fact in facts], add_special_tokens=False)["input_ids"] for start in ("", "so ")
    )
    return [(len(a), len(b)) for a, b in zip(alone, inside, strict=True)]


def _other(listed: list[Fact], fact: Fact, rng: random.Random) -> Fact | None:
    """The first that may take the fact's place, from a random one on."""
    start = rng.randrange(len(listed)) if listed else 0
    around = (listed[(start + i) % len(listed)] for i in range(len(listed)))
    return next((other for other in around if _may_stand(other, fact)), None)


def _may_stand(other: Fact, fact: Fact) -> bool:
    # The answer of a subject that the prompt shows earlier would be looked up there, not recalled.
    return other.answer.lower() != fact.answer.lower() and other.subject not in (fact.subject, *fact.shown)
