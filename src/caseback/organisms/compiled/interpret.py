"""What a program means: its value at every position, computed in plain Python.

It shares no code with the compiler, so that it can check it. Numbers are exact fractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from caseback.organisms.compiled.language import (
    Aggregate,
    Expression,
    Indices,
    Linear,
    Map,
    ProgramError,
    Select,
    SelectorWidth,
    SequenceMap,
    Tokens,
    Value,
    exact,
)


def interpret(program: Expression, words: Sequence[str]) -> list[Value]:
    """The program's value at each word of a prompt; ``None`` for nothing.

    Examples
    --------
    >>> from caseback.organisms.compiled.language import Aggregate, Select, indices, tokens
    >>> before = Aggregate(Select(indices, indices, lambda key, query: key == query - 1), tokens)
    >>> interpret(before, ["b", "a", "c"])
    [None, 'b', 'a']
    """
    return _values(program, list(words), {})


def _values(x: Expression, words: list[str], known: dict[int, list]) -> list:
    if id(x) not in known:
        known[id(x)] = _computed(x, words, known)
    return known[id(x)]


def _computed(x: Expression, words: list[str], known: dict[int, list]) -> list:
    given = [_values(y, words, known) for y in x.inputs()]
    match x:
        case Tokens():
            return words
        case Indices():
            return list(range(len(words)))
        case Map() | SequenceMap():
            nothing = Fraction(0) if x.numeric else None
            images = [nothing if None in at else x.function(*at) for at in zip(*given, strict=True)]
            return [_number(value) for value in images] if x.numeric else images
        case Linear():
            factors = [factor for factor, _ in x.terms]
            columns = zip(*given, strict=True) if given else [()] * len(words)
            return [sum(f * v for f, v in zip(factors, at, strict=True)) + x.constant for at in columns]
        case Aggregate():
            keys, queries, values = given
            return [_fetched(x, [values[j] for j in at]) for at in _selected(x.select, keys, queries)]
        case SelectorWidth():
            return [len(at) for at in _selected(x.select, *given)]
    raise ProgramError(f"{x!r} is not an expression of the language")


def _number(value: Any) -> Fraction:
    return Fraction(0) if value is None else exact(value)


def _selected(select: Select, keys: list, queries: list) -> list[list[int]]:
    """For each position, the positions that it selects."""
    rows = []
    for i, query in enumerate(queries):
        row = [j for j in range(i + 1) if None not in (query, keys[j]) and select.predicate(keys[j], query)]
        if row and select.prefer in ("latest", "earliest"):
            row = [max(row) if select.prefer == "latest" else min(row)]
        elif row and select.prefer:
            best = (max if select.prefer == "largest" else min)(keys[j] for j in row)
            row = [j for j in row if keys[j] == best]
        rows.append(row)
    return rows


def _fetched(x: Aggregate, fetched: list) -> Any:
    """One position's aggregate, from the values at the positions that it selects."""
    numeric = x.is_numerical()
    if x.beginning:
        fetched = [Fraction(0), *fetched]
    if not fetched:
        return _number(x.default) if numeric else x.default
    if numeric:
        return sum(fetched, Fraction(0)) / len(fetched)
    if len(set(fetched)) > 1:
        raise ProgramError(f"{x}: it selects positions that hold {fetched}, and of categorical values there is no mean")
    return fetched[0]
