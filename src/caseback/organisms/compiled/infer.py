"""Which values each expression of a program can take, given the alphabet and the longest prompt.

This is the program's type check: functions and predicates are tried on every value that can reach them. What is
inferred fixes the encoding: as many directions as values, or one direction for numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Real
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

MOST = 4096
"""How many values are listed for one expression at most."""


@dataclass(frozen=True)
class Kind:
    """Which values an expression can take.

    Attributes
    ----------
    values
        All of them, numbers in rising order; None for numbers that are too many to list.
    numerical
        Whether they lie along one direction.
    optional
        Whether it can also be nothing.
    """

    values: tuple[Any, ...] | None
    numerical: bool = False
    optional: bool = False

    @property
    def listed(self) -> tuple[Any, ...]:
        """The values, where they are listed."""
        if self.values is None:
            raise ProgramError("these values are not listed")
        return self.values


@dataclass(frozen=True)
class Selection:
    """What is known about a selector.

    Attributes
    ----------
    table
        ``table[q][k]``: whether query value q selects key value k.
    everything, total
        Whether each position always selects all positions that it sees; whether it always selects at least one.
    one_position, one_key
        Whether it never selects two positions; whether never two values of the key.
    """

    table: tuple[tuple[bool, ...], ...]
    everything: bool
    total: bool
    one_position: bool
    one_key: bool


@dataclass(frozen=True)
class Inferred:
    """A checked program: its expressions, each after its inputs, with the values that they can take."""

    alphabet: tuple[str, ...]
    max_length: int
    kinds: dict[Expression, Kind] = field(default_factory=dict)
    selections: dict[Select, Selection] = field(default_factory=dict)


def infer(program: Expression, alphabet: Sequence[str], max_length: int) -> Inferred:
    """Type-check a program.

    Parameters
    ----------
    program
        Any expression.
    alphabet
        The words that a prompt may consist of.
    max_length
        The longest prompt, in words.

    Raises
    ------
    ProgramError
        If it does not type-check: the text names the expression, what was expected of it and what to do.

    Examples
    --------
    >>> from caseback.organisms.compiled.language import Map, tokens
    >>> shouted = Map(str.upper, tokens)
    >>> infer(shouted, ["a", "b"], 4).kinds[shouted].values
    ('A', 'B')
    """
    if not isinstance(program, Expression):
        raise ProgramError(f"{program} is not a program: expected an expression, such as Aggregate(select, tokens)")
    inferred = Inferred(tuple(alphabet), max_length)
    _visit(program, inferred)
    return inferred


def _visit(x: Expression, inferred: Inferred) -> None:
    if x in inferred.kinds:
        return
    for y in x.inputs():
        _visit(y, inferred)
    if isinstance(x, Aggregate | SelectorWidth) and x.select not in inferred.selections:
        inferred.selections[x.select] = _selection(x.select, inferred.kinds)
    kind = _kind(x, inferred)
    if kind.values == ():
        raise ProgramError(f"{x} is always nothing: let its function give a value other than None somewhere")
    if kind.values is not None and len(kind.values) > MOST:
        if not kind.numerical:
            raise ProgramError(
                f"{x} can take {len(kind.values)} values: at most {MOST}; map to fewer or shorten prompts"
            )
        kind = Kind(None, True)
    inferred.kinds[x] = kind


def _kind(x: Expression, inferred: Inferred) -> Kind:
    match x:
        case Tokens():
            return Kind(inferred.alphabet)
        case Indices():
            return Kind(tuple(range(inferred.max_length)))
        case Map():
            given = _listed(x, x.x, inferred.kinds[x.x])
            return _image(x, [(value,) for value in given.listed], given.optional)
        case SequenceMap():
            for y in x.inputs():
                _expect_categorical(x, y, "or add and multiply numbers with + and *")
            first, second = inferred.kinds[x.x], inferred.kinds[x.y]
            pairs = [(a, b) for a in first.listed for b in second.listed]
            if len(pairs) > MOST:
                raise ProgramError(f"{x} has {len(pairs)} pairs of values: at most {MOST}; map x or y to fewer first")
            return _image(x, pairs, first.optional or second.optional)
        case Linear():
            return _linear(x, inferred.kinds)
        case Aggregate():
            return _aggregate(x, inferred.selections[x.select], inferred.kinds[x.x], inferred.max_length)
        case SelectorWidth():
            return _width(x, inferred.selections[x.select], inferred.max_length)
    raise ProgramError(f"{x!r} is not an expression of the language")


def image(x: Map | SequenceMap, values: tuple[Any, ...]) -> Value:
    """A map's value on given values: a number for a numerical map, else any value or None."""
    try:
        value = x.function(*values)
        hash(value)
    except Exception as error:
        shown = ", ".join(map(repr, values))
        raise ProgramError(
            f"{x}: its function is undefined on {shown} ({type(error).__name__}: {error}); give it a value there, or "
            "None for nothing"
        ) from error
    if not x.numeric:
        return value
    if value is not None and not isinstance(value, Real):
        raise ProgramError(
            f"{x}: its function makes {value!r} of {', '.join(map(repr, values))}, expected a number or a truth value; "
            "leave it categorical, or map to numbers"
        )
    return Fraction(0) if value is None else exact(value)


def _image(x: Map | SequenceMap, arguments: Iterable[tuple], optional: bool) -> Kind:
    images = [image(x, values) for values in arguments]
    if x.numeric:
        return Kind(tuple(sorted({*images, *[Fraction(0)] * optional})), True)
    return Kind(tuple(dict.fromkeys(v for v in images if v is not None)), optional=optional or None in images)


def _linear(x: Linear, kinds: dict[Expression, Kind]) -> Kind:
    sums: set[Fraction] | None = {x.constant}
    for factor, y in x.terms:
        if not y.is_numerical():
            raise ProgramError(f"{x}: {y} is categorical, expected numbers; take numerical({y}), or use SequenceMap")
        values = kinds[y].values
        if sums is None or values is None or len(sums) * len(values) > 4 * MOST:
            sums = None
        else:
            sums = {total + factor * value for total in sums for value in values}
    return Kind(None if sums is None else tuple(sorted(sums)), True)


def _selection(select: Select, kinds: dict[Expression, Kind]) -> Selection:
    for side in select.inputs():
        _expect_categorical(select, side, "since keys and queries are compared value by value")
    keys, queries = kinds[select.keys], kinds[select.queries]
    table = tuple(tuple(_holds(select, k, q) for k in keys.listed) for q in queries.listed)
    by_position = isinstance(select.keys, Indices)
    visible = surely_seen = table
    if by_position and isinstance(select.queries, Indices):
        visible = surely_seen = tuple(row[: q + 1] for q, row in enumerate(table))
    elif by_position:
        surely_seen = tuple(row[:1] for row in table)
    certain = not (keys.optional or queries.optional)
    itself = select.keys is select.queries and all(row[i] for i, row in enumerate(table))
    everything = certain and all(map(all, table))
    total = certain and (itself or everything or (by_position and all(map(any, surely_seen))))
    few = all(sum(row) <= 1 for row in visible)
    if select.prefer in ("largest", "smallest"):
        _ranks(select, keys)
    return Selection(
        table,
        everything,
        total,
        select.prefer in ("latest", "earliest") or (by_position and few),
        bool(select.prefer in ("largest", "smallest")) or few,
    )


def _holds(select: Select, key: Value, query: Value) -> bool:
    try:
        value = select.predicate(key, query)
    except Exception as error:
        raise ProgramError(
            f"{select}: its predicate is undefined on key {key!r} and query {query!r} "
            f"({type(error).__name__}: {error}); let it be False there"
        ) from error
    if not isinstance(value, bool):
        raise ProgramError(
            f"{select}: its predicate gives {value!r} for key {key!r} and query {query!r}, expected True or False; "
            "compare, or wrap it in bool()"
        )
    return value


def _ranks(select: Select, keys: Kind) -> None:
    try:
        sorted(keys.listed)
    except TypeError as error:
        raise ProgramError(f"{select}: the keys have no order ({error}); map them to numbers or words first") from error


def _aggregate(x: Aggregate, selection: Selection, given: Kind, length: int) -> Kind:
    defaults = () if selection.total or x.default is None else (x.default,)
    if x.beginning and (not given.numerical or x.select.prefer or x.default is not None):
        raise ProgramError(
            f"{x}: beginning=True adds a 0 to a mean, so x must be numerical, without prefer and without default"
        )
    if not given.numerical:
        same = selection.one_key and x.x is x.select.keys
        constant = len(given.listed) <= 1 and not given.optional
        if not (selection.one_position or same or constant):
            raise ProgramError(
                f"{x} may select several positions that differ in {x.x}, and of categorical values there is no mean: "
                "give Select a prefer='latest' or 'earliest', or aggregate numerical(…)"
            )
        missing = not selection.total and x.default is None
        return Kind(tuple(dict.fromkeys((*given.listed, *defaults))), optional=missing or (given.optional and not same))
    if not isinstance(x.default, Real | None):
        raise ProgramError(f"{x}: the default is {x.default!r}, and {x.x} is numerical; expected a number")
    if given.values is None:
        return Kind(None, True)
    one_only = selection.one_position and not x.beginning
    means = set(given.values) if one_only else _means(given.values, length, int(x.beginning))
    if means is None:
        return Kind(None, True)
    if not selection.total:
        means = means | {exact(x.default or 0)}
    return Kind(tuple(sorted(means)), True)


def _means(values: tuple[Fraction, ...], length: int, zeros: int) -> set[Fraction] | None:
    """Every mean of 1 to ``length`` of these values and so many zeros; None where they are too many to list."""
    sums, means = {Fraction(0)}, set()
    for count in range(1, length + 1):
        sums = {total + value for total in sums for value in values}
        means |= {total / (count + zeros) for total in sums}
        if len(means) > MOST:
            return None
    return means


def _width(x: SelectorWidth, selection: Selection, length: int) -> Kind:
    if x.select.prefer:
        raise ProgramError(f"{x} counts all that are selected: leave out prefer={x.select.prefer!r}")
    most = 1 if selection.one_position else length
    return Kind(tuple(range(int(selection.total), most + 1)))


def _expect_categorical(where: Any, x: Expression, why: str) -> None:
    if x.is_numerical():
        raise ProgramError(f"{where}: {x} is numerical, expected a categorical one, {why}; take categorical({x})")


def _listed(where: Map, x: Expression, kind: Kind) -> Kind:
    """A map's input, of which every value must be known."""
    if kind.values is None:
        raise ProgramError(
            f"{where}: {x} can take too many values to list (more than {MOST}), so it cannot be mapped; shorten "
            "max_length, or average fewer different numbers"
        )
    return kind
