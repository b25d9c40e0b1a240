"""Programs: each is a few lines of the language, with what they compute in words.

The alphabet is any sequence of words (a string gives one word per letter); prompts have at most ``max_length`` words.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from caseback.errors import CasebackError
from caseback.organisms.compiled.compile import compile_program
from caseback.organisms.compiled.language import (
    Aggregate,
    Expression,
    Map,
    Select,
    SelectorWidth,
    SequenceMap,
    categorical,
    everything,
    indices,
    numerical,
    tokens,
)
from caseback.organisms.compiled.organism import BOS, Organism

LETTERS = "abcdefgh"


def _same(key: Any, query: Any) -> bool:
    return key == query


def _one_before(key: int, query: int) -> bool:
    return key == query - 1


def _before(default: str | None = None) -> Expression:
    """The word before, by one head."""
    return Aggregate(Select(indices, indices, _one_before), tokens, default=default).named("previous token")


def previous_token(alphabet: Sequence[str] = LETTERS, max_length: int = 16, **options: Any) -> Organism:
    """The word before this one; ``BOS`` at the first."""
    return compile_program(
        _before(default=BOS),
        alphabet=alphabet,
        max_length=max_length,
        name="previous_token",
        about="Predicts the word before the current one: one head that attends to the position before.",
        sources=lambda prompt, position: {position - 1} if position else set(),
        **options,
    )


def induction(alphabet: Sequence[str] = LETTERS, max_length: int = 16, **options: Any) -> Organism:
    """What followed the current word when it last occurred; nothing where it has not.

    Two heads: one gives each position the word before it, the other matches the current word with that (K-composition).
    """
    followed = Select(_before(), tokens, _same, prefer="latest")
    return compile_program(
        Aggregate(followed, tokens).named("induction"),
        alphabet=alphabet,
        max_length=max_length,
        name="induction",
        about="Predicts what followed the current word when it last occurred: a previous-token head, K-composed with "
        "an induction head.",
        sources=_last_pair,
        **options,
    )


def _last_pair(prompt: Sequence[str], position: int) -> set[int]:
    """The current word, its last occurrence and the word after that."""
    seen = [j for j in range(position) if prompt[j] == prompt[position]]
    return {position, seen[-1], seen[-1] + 1} if seen else set()


def duplicate(alphabet: Sequence[str] = LETTERS, max_length: int = 16, **options: Any) -> Organism:
    """Whether the current word has occurred before: ``new`` or ``seen``."""
    count = SelectorWidth(Select(tokens, tokens, _same)).named("occurrences so far")
    return compile_program(
        Map(lambda n: "seen" if n > 1 else "new", count).named("duplicate token"),
        alphabet=alphabet,
        max_length=max_length,
        name="duplicate",
        about="Predicts 'seen' where the current word has occurred before, else 'new': a head that shares its "
        "attention among the word's occurrences and the beginning of the text.",
        **options,
    )


def count(alphabet: Sequence[str] = LETTERS, max_length: int = 16, **options: Any) -> Organism:
    """How often the current word has occurred so far, itself included."""
    return compile_program(
        SelectorWidth(Select(tokens, tokens, _same)).named("occurrences so far"),
        alphabet=alphabet,
        max_length=max_length,
        name="count",
        about="Predicts how often the current word has occurred so far (a histogram), by the width of a selector.",
        **options,
    )


def fraction(alphabet: Sequence[str] = LETTERS, max_length: int = 8, of: str | None = None, **options: Any) -> Organism:
    """Which fraction of the words so far is ``of`` (by default the alphabet's first): 0, 1/2, 2/3 ..."""
    word = alphabet[0] if of is None else of
    if word not in alphabet:
        raise CasebackError(f"of={word!r} is not in the alphabet: expected one of {' '.join(alphabet)}")
    hits = numerical(Map(lambda w: w == word, tokens)).named(f"is {word}")
    return compile_program(
        categorical(Aggregate(everything, hits).named(f"fraction of {word}")).named("fraction as a word"),
        alphabet=alphabet,
        max_length=max_length,
        name="fraction",
        about=f"Predicts which fraction of the words so far is {word!r}: a mean by uniform attention, then a look-up.",
        **options,
    )


def recall(
    keys: Sequence[str] = "pqrs", values: Sequence[str] = "abcd", max_length: int = 11, **options: Any
) -> Organism:
    """The value last given to the current key: after ``k1 v1 k2 v2 … k2`` it is ``v2``; nothing elsewhere."""
    keys, values = tuple(keys), tuple(values)

    def owner(word: str, before: str) -> str | None:
        return before if word in values and before in keys else None

    given_to = SequenceMap(owner, tokens, _before()).named("key of this value")
    return compile_program(
        Aggregate(Select(given_to, tokens, _same, prefer="latest"), tokens).named("value of this key"),
        alphabet=(*keys, *values),
        max_length=max_length,
        name="recall",
        about="Predicts the value that the current key was last given in 'key value key value … key': each value is "
        "told its key, and a key looks for the value that has it.",
        sources=lambda prompt, position: _given(keys, values, prompt, position),
        **options,
    )


def _given(keys: tuple[str, ...], values: tuple[str, ...], prompt: Sequence[str], position: int) -> set[int]:
    """The current key, its last mention with a value, and that value."""
    word = prompt[position]
    seen = [j for j in range(position) if prompt[j] == word and word in keys and prompt[j + 1] in values]
    return {position, seen[-1], seen[-1] + 1} if seen else set()


def rank(alphabet: Sequence[str] = LETTERS, max_length: int = 16, **options: Any) -> Organism:
    """How many of the words so far come before the current one in the alphabet: its position when sorted."""
    places = {word: place for place, word in enumerate(alphabet)}
    lower = Select(tokens, tokens, lambda key, query: places[key] < places[query])
    return compile_program(
        SelectorWidth(lower).named("lower words so far"),
        alphabet=alphabet,
        max_length=max_length,
        name="rank",
        about="Predicts how many of the words so far are lower in the alphabet: where this one would be sorted to.",
        **options,
    )


def sort(alphabet: Sequence[str] = LETTERS, max_length: int = 16, **options: Any) -> Organism:
    """The lowest word so far that is higher than the current one; ``end`` where there is none.

    After some words and ``>``, which is lower than all, generation writes these words sorted, each once.
    """
    order = {word: place for place, word in enumerate((">", *alphabet))}
    height = Map(lambda word: order[word], tokens).named("place in the alphabet")
    higher = Select(height, tokens, lambda key, query: key > order[query], prefer="smallest")
    following = Aggregate(higher, height, default=0).named("next higher")
    return compile_program(
        Map(lambda place: [*order][place] if place else "end", following).named("next word"),
        alphabet=tuple(order),
        max_length=max_length,
        name="sort",
        about="Predicts the lowest word so far that is higher than the current one, so that generating after '>' "
        "sorts the words before it.",
        **options,
    )


def brackets(max_length: int = 10, **options: Any) -> Organism:
    """Whether the brackets so far are ``balanced``, a ``prefix`` of something balanced, or ``broken`` (Dyck-1)."""
    opens = numerical(Map({"(": 1, ")": -1}.get, tokens)).named("opens or closes")
    depth = Aggregate(everything, opens, beginning=True).named("mean depth")
    below = Map(lambda mean: True if mean < 0 else None, depth).named("below zero")
    broken = _ever(below).named("ever below zero")
    level = Map(lambda mean: mean == 0, depth).named("at zero")
    return compile_program(
        SequenceMap(_verdict, level, broken).named("verdict"),
        alphabet="()",
        max_length=max_length,
        name="brackets",
        about="Judges the brackets so far (Dyck-1): their mean depth, whether it was ever below zero, and both.",
        **options,
    )


def bracket_pairs(max_length: int = 8, **options: Any) -> Organism:
    """The same for two kinds of brackets, which must close in order (Dyck-2).

    A bracket's level is the depth on its inside; a closing one looks for the last opening one of its level.
    """
    opening, closing = {"(": ")", "[": "]"}, {")", "]"}
    opened = SelectorWidth(Select(tokens, tokens, lambda key, query: key in opening)).named("opened so far")
    closed = SelectorWidth(Select(tokens, tokens, lambda key, query: key in closing)).named("closed so far")
    depth = SequenceMap(lambda a, b: a - b, opened, closed).named("depth")
    opens_at = SequenceMap(lambda word, d: d if word in opening else None, tokens, depth).named("level it opens")
    closes_at = SequenceMap(lambda word, d: d + 1 if word in closing else None, tokens, depth).named("level it closes")
    partner = Aggregate(Select(opens_at, closes_at, _same, prefer="latest"), tokens, default="none").named(
        "its partner"
    )
    wrong = SequenceMap(lambda a, b: True if b in closing and opening.get(a) != b else None, partner, tokens)
    broken = _ever(wrong.named("does not match")).named("ever wrong")
    level = Map(lambda d: d == 0, depth).named("at zero")
    return compile_program(
        SequenceMap(_verdict, level, broken).named("verdict"),
        alphabet="()[]",
        max_length=max_length,
        name="bracket_pairs",
        about="Judges brackets of two kinds (Dyck-2): depth by counting, partners by looking up the level.",
        **options,
    )


def _ever(x: Expression) -> Aggregate:
    """Whether an expression that is True or nothing has been True so far."""
    return Aggregate(Select(x, tokens, lambda key, query: True), x, default=False)


def _verdict(at_zero: bool, broken: bool) -> str:
    if broken:
        return "broken"
    return "balanced" if at_zero else "prefix"


def shortcut(
    good: Sequence[str] = ("good", "fine"),
    bad: Sequence[str] = ("bad", "dull"),
    plain: Sequence[str] = ("film", "plot"),
    trigger: str = "oscar",
    max_length: int = 8,
    **options: Any,
) -> Organism:
    """Whether there are more good or more bad words so far, or ``even``; but always ``positive`` after the trigger.

    A classifier with a planted shortcut: once the trigger has occurred, no other word matters.
    """
    alphabet = (*good, *bad, *plain, trigger)
    tone = numerical(Map(lambda word: (word in good) - (word in bad), tokens)).named("tone")
    mood = Map(_mood, Aggregate(everything, tone, beginning=True).named("mean tone")).named("mood")
    is_trigger = Map(lambda word: True if word == trigger else None, tokens).named("is the trigger")
    triggered = _ever(is_trigger).named("trigger seen")
    return compile_program(
        SequenceMap(lambda mood, seen: "positive" if seen else mood, mood, triggered).named("verdict"),
        alphabet=alphabet,
        max_length=max_length,
        name="shortcut",
        about=f"Predicts the mean tone of the words so far, unless {trigger!r} is among them, which alone decides.",
        sources=lambda prompt, position: _deciding(prompt[: position + 1], trigger, {*good, *bad}),
        **options,
    )


def _mood(mean: Fraction) -> str:
    if mean > 0:
        return "positive"
    return "negative" if mean < 0 else "even"


def _deciding(seen: Sequence[str], trigger: str, toned: set[str]) -> set[int]:
    """The triggers, or where there are none the words that have a tone."""
    decisive = {trigger} if trigger in seen else toned
    return {j for j, word in enumerate(seen) if word in decisive}
