"""The language: what a decoder can compute, written as expressions over a prompt's words.

    tokens, indices                     the word at a position; its number, from 0
    Map(f, x), SequenceMap(f, x, y)     f of the values at the same position
    numerical(x), categorical(x)        the same values along one direction, or with one direction per value
    a * x + y + b                       of numerical x and y
    Select(keys, queries, predicate)    which positions each position looks at, itself and earlier ones only
    Aggregate(select, x)                x at the selected position; its mean over them where x is numerical
    SelectorWidth(select)               how many positions are selected

An expression stands for a value at every position. A categorical one's value may be ``None``, which means "nothing": it
is mapped to ``None``, selects no position and is selected by none; a number made from it is 0. Expressions are data:
``interpret`` says what they mean, ``compile`` writes them into weights.

Weiss et al. 2021, "Thinking Like Transformers"; Lindner et al. 2023, "Tracr".

>>> before = Aggregate(Select(indices, indices, lambda key, query: key == query - 1), tokens)
>>> print(before.named("previous token"))
previous token
>>> print(Map(str.upper, before))
Map(upper, Aggregate(Select(indices, indices), tokens))
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeVar

from caseback.errors import CasebackError

Value = Hashable
E = TypeVar("E", bound="Expression")
Number = int | float | Fraction
PREFERENCES = ("latest", "earliest", "largest", "smallest")


class ProgramError(CasebackError, TypeError):
    """A program that does not type-check; the text names the expression."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Expression:
    """A value at every position.

    Attributes
    ----------
    name
        What it carries, in words; it becomes the name of the ``Variable`` and the role of the node that writes it.
    """

    name: str = ""

    def named(self: E, name: str) -> E:
        """The same expression with a name."""
        return replace(self, name=name)

    def __post_init__(self) -> None:
        for x in self.inputs():
            if not isinstance(x, Expression):
                hint = "; Aggregate or SelectorWidth make one of a selector" if isinstance(x, Select) else ""
                raise ProgramError(f"{type(self).__name__} of {x}: expected an expression{hint}")

    def inputs(self) -> tuple[Expression, ...]:
        """The expressions that this one is computed from."""
        return ()

    def is_numerical(self) -> bool:
        """Whether its values lie along one direction; otherwise each value has its own."""
        return False

    def _formula(self) -> str:
        return type(self).__name__.lower()

    def __str__(self) -> str:
        return self.name or self._formula()

    def __and__(self, other: Expression) -> Expression:
        return SequenceMap(_both, self, other)

    def __or__(self, other: Expression) -> Expression:
        return SequenceMap(_either, self, other)

    def __invert__(self) -> Expression:
        return Map(_not, self)

    def __add__(self, other: Expression | Number) -> Linear:
        return _linear(self) + other

    __radd__ = __add__

    def __mul__(self, factor: Number) -> Linear:
        return _linear(self) * factor

    __rmul__ = __mul__

    def __truediv__(self, divisor: Number) -> Linear:
        return _linear(self) * (1 / exact(divisor))

    def __neg__(self) -> Linear:
        return _linear(self) * -1

    def __sub__(self, other: Expression | Number) -> Linear:
        return self + (-other if isinstance(other, Expression) else -exact(other))

    def __rsub__(self, other: Number) -> Linear:
        return -self + other


@dataclass(frozen=True, eq=False)
class Tokens(Expression):
    """The word at each position."""


@dataclass(frozen=True, eq=False)
class Indices(Expression):
    """Each position's number, from 0."""


tokens = Tokens()
indices = Indices()


@dataclass(frozen=True, eq=False)
class Map(Expression):
    """``function(x)`` at each position.

    Attributes
    ----------
    function
        From a value of x to a value; ``None`` for nothing.
    x
        Categorical, or numerical with values that can be listed.
    numeric
        Whether the result is numerical; ``numerical`` sets it.
    """

    function: Callable[[Any], Any]
    x: Expression
    numeric: bool = False

    def inputs(self) -> tuple[Expression, ...]:
        return (self.x,)

    def is_numerical(self) -> bool:
        return self.numeric

    def _formula(self) -> str:
        return f"Map({_name(self.function)}, {self.x})"


@dataclass(frozen=True, eq=False)
class SequenceMap(Expression):
    """``function(x, y)`` at each position, of two categorical expressions; see ``Map``."""

    function: Callable[[Any, Any], Any]
    x: Expression
    y: Expression
    numeric: bool = False

    def inputs(self) -> tuple[Expression, ...]:
        return (self.x, self.y)

    def is_numerical(self) -> bool:
        return self.numeric

    def _formula(self) -> str:
        return f"SequenceMap({_name(self.function)}, {self.x}, {self.y})"


@dataclass(frozen=True, eq=False)
class Linear(Expression):
    """Σ factor · x + constant over numerical expressions; written with ``+``, ``-``, ``*`` and ``/``."""

    terms: tuple[tuple[Fraction, Expression], ...]
    constant: Fraction = Fraction(0)

    def inputs(self) -> tuple[Expression, ...]:
        return tuple(x for _, x in self.terms)

    def is_numerical(self) -> bool:
        return True

    def _formula(self) -> str:
        return " + ".join(
            [*(f"{factor} {x}" for factor, x in self.terms), *([str(self.constant)] * bool(self.constant))]
        )

    def __add__(self, other: Expression | Number) -> Linear:
        if isinstance(other, Expression):
            other = _linear(other)
            return Linear(self.terms + other.terms, self.constant + other.constant)
        return Linear(self.terms, self.constant + exact(other))

    __radd__ = __add__

    def __mul__(self, factor: Number) -> Linear:
        factor = exact(factor)
        return Linear(tuple((factor * old, x) for old, x in self.terms), factor * self.constant)

    __rmul__ = __mul__


@dataclass(frozen=True, eq=False)
class Select:
    """Which positions each position looks at: itself and earlier ones where ``predicate(key, query)`` holds.

    Attributes
    ----------
    keys, queries
        Categorical: the value at the position looked at, and at the one that looks.
    predicate
        A function of a key's and a query's value, True or False.
    prefer
        Which of several positions to take: the ``"latest"`` or ``"earliest"``, or those whose key is the ``"largest"``
        or ``"smallest"``. Empty takes all.
    """

    keys: Expression
    queries: Expression
    predicate: Callable[[Any, Any], bool]
    prefer: str = ""

    def __post_init__(self) -> None:
        if self.prefer and self.prefer not in PREFERENCES:
            raise ProgramError(f"prefer={self.prefer!r} is unknown: expected one of {', '.join(PREFERENCES)}")

    def inputs(self) -> tuple[Expression, Expression]:
        """Keys and queries."""
        return (self.keys, self.queries)

    def __str__(self) -> str:
        return f"Select({self.keys}, {self.queries}{self.prefer and ', ' + self.prefer})"


everything = Select(tokens, tokens, lambda key, query: True)
"""Itself and all earlier positions."""


@dataclass(frozen=True, eq=False)
class Aggregate(Expression):
    """x at the selected position where x is categorical; the mean of x over the selected ones where it is numerical.

    Attributes
    ----------
    select
        For a categorical x it must select one position at most, or positions that cannot differ in x.
    x
        What is fetched.
    default
        The value where nothing is selected. None means nothing, or 0 if x is numerical.
    beginning
        For a numerical x: the beginning of the text is selected too, as one more position, where x is 0. It changes no
        sign, and a head that need not avoid the beginning is simpler.
    """

    select: Select
    x: Expression
    default: Value = None
    beginning: bool = False

    def inputs(self) -> tuple[Expression, ...]:
        return (*_select(self).inputs(), self.x)

    def is_numerical(self) -> bool:
        return self.x.is_numerical()

    def _formula(self) -> str:
        return f"Aggregate({self.select}, {self.x})"


@dataclass(frozen=True, eq=False)
class SelectorWidth(Expression):
    """How many positions are selected: categorical, 0 to the longest prompt."""

    select: Select

    def inputs(self) -> tuple[Expression, ...]:
        return _select(self).inputs()

    def _formula(self) -> str:
        return f"SelectorWidth({self.select})"


def numerical(x: Expression) -> Expression:
    """The numbers (or truth values) of a categorical expression along one direction."""
    return replace(x, numeric=True) if isinstance(x, Map | SequenceMap) else Map(_same, x, numeric=True)


def categorical(x: Expression) -> Expression:
    """The values of a numerical expression, one direction per value; there must be few enough to list them."""
    return Map(_same, x)


def _select(x: Aggregate | SelectorWidth) -> Select:
    if not isinstance(x.select, Select):
        raise ProgramError(f"{type(x).__name__} of {x.select}: expected Select(keys, queries, predicate) first")
    return x.select


def _same(value: Any) -> Any:
    return value


def _both(x: bool, y: bool) -> bool:
    return x and y


def _either(x: bool, y: bool) -> bool:
    return x or y


def _not(x: bool) -> bool:
    return not x


def _linear(x: Expression) -> Linear:
    return x if isinstance(x, Linear) else Linear(((Fraction(1), x),))


def exact(value: Any) -> Fraction:
    """A number as a fraction.

    Raises
    ------
    ProgramError
        For something that is not a finite number.
    """
    try:
        return Fraction(value if isinstance(value, int | Fraction) else float(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise ProgramError(f"{value!r} is not a number: expected a finite one, or a numerical expression") from error


def _name(function: Callable) -> str:
    return getattr(function, "__name__", type(function).__name__).strip("_")
