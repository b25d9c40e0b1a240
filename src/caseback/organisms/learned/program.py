"""Hard choices as a program of the compiled organisms' language, and that program as Python.

What no training prompt reaches is left out: a table of two variables that only one of them decides is a map of that
one, and a pair that never occurs has the table's commonest value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import one_hot

from caseback.organisms.compiled.compile import compile_program
from caseback.organisms.compiled.language import (
    Aggregate,
    Expression,
    Map,
    Select,
    SelectorWidth,
    SequenceMap,
    Value,
    indices,
    tokens,
)
from caseback.organisms.compiled.organism import Organism
from caseback.organisms.learned.relaxed import Choices, Shape, variables

NOTHING = "nothing"
"""The value of a head that finds no match."""


@dataclass(frozen=True)
class Matches:
    """A predicate: which keys each query selects."""

    keys: dict[Value, tuple[Value, ...]]

    def __call__(self, key: Value, query: Value) -> bool:
        return key in self.keys.get(query, ())

    def __str__(self) -> str:
        return f"key in {self.keys}.get(query, ())"


@dataclass(frozen=True)
class Equals:
    """A predicate: the key is the query, or lies some numbers before it."""

    before: int = 0

    def __call__(self, key: Any, query: Any) -> bool:
        return key == (query - self.before if self.before else query)

    def __str__(self) -> str:
        return f"key == query - {self.before}" if self.before else "key == query"


@dataclass(frozen=True)
class Table:
    """A function of one value or two: listed, and the same for all others."""

    values: dict[Any, Value]
    others: Value

    def __call__(self, x: Value, *y: Value) -> Value:
        return self.values.get((x, *y) if y else x, self.others)


@dataclass(frozen=True, eq=False)
class LearnedProgram:
    """What was learned.

    Attributes
    ----------
    program
        The expression, in the language of compiled organisms.
    alphabet, max_length
        Of its prompts.
    accuracy
        The share of answers that it has right on prompts that it was neither trained nor chosen on.
    chance
        The same for the best table of the current word.
    rounds
        The best accuracy of each round, on the prompts on which programs are chosen.
    """

    program: Expression
    alphabet: tuple[str, ...]
    max_length: int
    accuracy: float
    chance: float
    rounds: list[float] = field(default_factory=list)

    @property
    def source(self) -> str:
        """The program as Python, a line a variable."""
        return source(self.program)

    @property
    def script(self) -> str:
        """The same as a file that runs, and compiles it as ``organism``."""
        last = self.source.splitlines()[-1].partition(" = ")[0] if parts(self.program) else str(self.program)
        return (
            "from caseback.organisms.compiled import compile_program\n"
            "from caseback.organisms.compiled.language import *\n\n"
            f"{self.source}\n"
            f"organism = compile_program({last}, alphabet={self.alphabet!r}, max_length={self.max_length})\n"
        )

    def compile(self) -> Organism:
        """The program's weights, circuit and variables, as ``compile_program`` writes them."""
        return compile_program(self.program, alphabet=self.alphabet, max_length=self.max_length, name="learned")


def as_program(
    shape: Shape,
    hard: Choices,
    prompts: Int[Tensor, "batch pos"],
    asked: Bool[Tensor, "batch pos"],
    alphabet: Sequence[str],
    answers: Sequence[str],
) -> Expression:
    """One restart's hard choices as an expression.

    Parameters
    ----------
    shape
        Of the choices.
    hard
        The choices, (1, part, ...) each.
    prompts
        Those that say which values occur, as numbers of the alphabet's words.
    asked
        Where there is an answer.
    alphabet, answers
        The words of prompts, and those of answers.
    """
    codes = variables(shape, hard, prompts)[0].argmax(-1).flatten(1)
    n = prompts.shape[1]
    nothing_first: list[tuple[Value, ...]] = [(NOTHING, *alphabet), (NOTHING, *range(n))]
    written: list[tuple[Expression, tuple[Value, ...]]] = [(tokens, nothing_first[0]), (indices, nothing_first[1])]

    def reached(x: int, y: int, where: Tensor) -> list[tuple[int, ...]]:
        return [tuple(row) for row in codes[[x, y]][:, where.flatten()].unique(dim=1).T.tolist()]

    def select(of: dict[str, Tensor], i: int, table: Tensor, **options: str) -> Select:
        at_query, at_key = int(of["query"][i].argmax()), int(of["key"][i].argmax())
        (query, queries), (key, keys) = written[at_query], written[at_key]
        meet = _meeting(codes[at_query].view(prompts.shape), codes[at_key].view(prompts.shape), len(table))
        chosen: dict[tuple[Value, Value], bool] = {
            (queries[q], keys[k]): bool(q and k and table[q, k]) for q, k in meet.nonzero().tolist()
        }
        return Select(key, query, _predicate(chosen), **options)

    for part, names in shape.parts().items():
        kind, _, layer = part.partition(".")
        of = {name: hard[f"{part}.{name}"][0] for name in names}
        new: list[tuple[Expression, tuple[Value, ...]]] = []
        for i in range(len(next(iter(of.values())))):
            if kind == "head":
                fetched, values = written[int(of["value"][i].argmax())]
                how = select(of, i, of["match"][i], prefer="latest")
                head = Aggregate(how, fetched, default=NOTHING)
                new.append((head.named(f"head_{layer}_{i}"), values))
            elif kind == "counter":
                width = SelectorWidth(select(of, i, of["select"][i]))
                new.append((width.named(f"counter_{layer}_{i}"), (NOTHING, *range(n + 1))))
            else:
                x, y = int(of["x"][i].argmax()), int(of["y"][i].argmax())
                table = of["table" if kind == "lookup" else "words"][i].argmax(-1).tolist()
                images = tuple(range(shape.codes - 1)) if kind == "lookup" else tuple(answers)
                pairs = {
                    at: images[table[at[0]][at[1]]]
                    for at in reached(x, y, asked if kind == "answer" else torch.ones_like(asked))
                }
                name = f"lookup_{layer}_{i}" if kind == "lookup" else "program"
                new.append((_table(pairs, written[x], written[y], name), (NOTHING, *images)))
        written += new
    return written[-1][0]


def _meeting(queries: Int[Tensor, "batch pos"], keys: Int[Tensor, "batch pos"], codes: int) -> Int[Tensor, "query key"]:
    """How often each key's code stands at or before each query's."""
    by_query, by_key = (one_hot(x, codes).float() for x in (queries, keys))
    return torch.einsum("bqc,bqd->cd", by_query, by_key.cumsum(1)).long()


def _predicate(chosen: dict[tuple[Value, Value], bool]) -> Matches | Equals:
    """The shortest predicate that is right for each query and key that meet."""
    offsets = {q - k for (q, k), holds in chosen.items() if holds and isinstance(q, int) and isinstance(k, int)}
    for offset in sorted({0, *offsets})[:2]:
        equals = Equals(offset)
        numbers = all(isinstance(value, int) for pair in chosen for value in pair)
        if (numbers or not offset) and all(equals(k, q) == holds for (q, k), holds in chosen.items()):
            return equals
    keys: dict[Value, tuple[Value, ...]] = {}
    for (query, key), holds in chosen.items():
        if holds:
            keys[query] = (*keys.get(query, ()), key)
    return Matches(keys)


def _table(
    pairs: dict[tuple[int, ...], Value],
    x: tuple[Expression, tuple[Value, ...]],
    y: tuple[Expression, tuple[Value, ...]],
    name: str,
) -> Expression:
    """The one variable that is the value, a map of the one that decides it, or a map of both."""
    for side, one in ((0, x), (1, y)):
        if all(str(one[1][at[side]]) == str(value) for at, value in pairs.items()):  # an answer is its value as text
            return one[0]
        alone = {at[side]: value for at, value in pairs.items()}
        if all(alone[at[side]] == value for at, value in pairs.items()):
            return Map(_listed({one[1][code]: value for code, value in alone.items()}), one[0]).named(name)
    return SequenceMap(_listed({(x[1][a], y[1][b]): value for (a, b), value in pairs.items()}), x[0], y[0]).named(name)


def _listed(values: dict[Any, Value]) -> Table:
    [(others, _)] = Counter(values.values()).most_common(1)
    return Table({at: value for at, value in values.items() if value != others}, others)


def parts(program: Expression) -> list[Expression]:
    """The expressions that a program is made of, each after what it reads, without tokens and indices.

    Examples
    --------
    >>> first = Aggregate(Select(indices, indices, Matches({0: (0,), 1: (0,)})), tokens).named("first")
    >>> print(*parts(Map(Table({"a": "b"}, "a"), first).named("program")))
    first program
    """
    order: dict[int, Expression] = {}

    def visit(x: Expression) -> None:
        if id(x) not in order and x.inputs():
            for y in x.inputs():
                visit(y)
            order[id(x)] = x

    visit(program)
    return list(order.values())


def source(program: Expression) -> str:
    """A learned program as Python that makes the same expression.

    Examples
    --------
    >>> before = Aggregate(Select(indices, indices, Equals(1), "latest"), tokens, default=NOTHING)
    >>> print(source(before.named("head_0_0")))
    head_0_0 = Aggregate(Select(indices, indices, lambda key, query: key == query - 1, 'latest'), tokens, ...)
    """
    return "\n".join(f"{x.name} = {_line(x)}" for x in parts(program))


def _line(x: Expression) -> str:
    match x:
        case Aggregate():
            return f"Aggregate({_select(x.select)}, {_called(x.x)}, default={x.default!r})"
        case SelectorWidth():
            return f"SelectorWidth({_select(x.select)})"
        case Map(function=Table() as table):
            return f"Map(lambda x: {_get(table, 'x')}, {_called(x.x)})"
        case SequenceMap(function=Table() as table):
            return f"SequenceMap(lambda x, y: {_get(table, '(x, y)')}, {_called(x.x)}, {_called(x.y)})"
    return str(x)


def _select(select: Select) -> str:
    prefer = f", {select.prefer!r}" if select.prefer else ""
    return f"Select({_called(select.keys)}, {_called(select.queries)}, lambda key, query: {select.predicate}{prefer})"


def _called(x: Expression) -> str:
    return x.name or str(x)


def _get(table: Table, at: str) -> str:
    return f"{table.values}.get({at}, {table.others!r})" if table.values else repr(table.others)
