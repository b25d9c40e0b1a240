"""Relations between a query and keys before it, as lists of pairs, from marks alone.

    previous         the token before                       current          the token itself
    first            the row's first token                  duplicate        the nearest earlier same token
    same_token       every earlier same token               first_same       the earliest same token
    induction        the token after the nearest earlier same token
    word_start       the first token of the query's word    same_word        every earlier token of the query's word
    previous_word    the last token of the word before
    before_word      the same as previous_word, of queries that do not start a word
    before_start     the token before, of queries that start a word
    to:NAME          the token at the position in the row that the corpus's label NAME gives; -1 for none

A relation is a function of marks that gives queries and keys as numbers of tokens; ``@relation`` adds one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.stream.marks import Marks

Pairs = tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]
"""Queries and keys, as numbers of the batch's real tokens, row after row."""
Relation = Callable[[Marks], Pairs]

RELATIONS: dict[str, Relation] = {}


def relation(name: str) -> Callable[[Relation], Relation]:
    """Register a relation under a name.

    Parameters
    ----------
    name
        What ``attention_relations`` calls it.

    Examples
    --------
    >>> @relation("three_back")
    ... def three_back(marks):
    ...     query = (marks.position >= 3).nonzero()[:, 0]
    ...     return query, query - 3
    >>> "three_back" in RELATIONS and RELATIONS.pop("three_back") is three_back
    True
    """

    def register(function: Relation) -> Relation:
        if name in RELATIONS:
            raise CasebackError(f"a relation is called {name!r} already: choose another name")
        RELATIONS[name] = function
        return function

    return register


TO = "to:"
"""What the name of a relation that labels give begins with."""


def pairs_of(name: str, marks: Marks) -> Pairs:
    """The queries and keys of a relation.

    Raises
    ------
    CasebackError
        For a label that the corpus lacks, or that points behind its token or out of its row.
    """
    if not name.startswith(TO):
        return RELATIONS[name](marks)
    label = name.removeprefix(TO)
    if label not in marks.labels:
        raise CasebackError(f"relation {name!r} needs label {label!r}. {did_you_mean(label, marks.labels)}")
    to = marks.labels[label]
    if bool((to > marks.position).any()):
        raise CasebackError(f"label {label!r} points behind its token: expected earlier positions of the row, or -1")
    query = where(to >= 0)
    return query, query - marks.position[query] + to[query]


def expect_relations(names: tuple[str, ...]) -> None:
    """Refuse names that are no relations."""
    for name in names:
        if name not in RELATIONS and not (name.startswith(TO) and name != TO):
            raise CasebackError(f"no relation is called {name!r}. {did_you_mean(name, RELATIONS)}")


def where(mask: Tensor) -> Int[Tensor, " token"]:
    """The numbers of the tokens that a mask takes."""
    return mask.nonzero()[:, 0]


@relation("previous")
def previous(marks: Marks) -> Pairs:
    """The token before."""
    query = where(marks.position > 0)
    return query, query - 1


@relation("current")
def current(marks: Marks) -> Pairs:
    """The token itself."""
    query = torch.arange(len(marks.position), device=marks.position.device)
    return query, query


@relation("first")
def first(marks: Marks) -> Pairs:
    """The row's first token."""
    query = where(marks.position > 0)
    return query, query - marks.position[query]


@relation("duplicate")
def duplicate(marks: Marks) -> Pairs:
    """The nearest earlier same token."""
    query = where(marks.repeat > 0)
    return query, query - marks.repeat[query]


@relation("induction")
def induction(marks: Marks) -> Pairs:
    """The token after the nearest earlier same token, where that is not the query itself."""
    query = where(marks.repeat > 1)
    return query, query - marks.repeat[query] + 1


@relation("same_token")
def same_token(marks: Marks) -> Pairs:
    """Every earlier same token."""
    return _earlier_of(_joined(marks.row, marks.current))


@relation("first_same")
def first_same(marks: Marks) -> Pairs:
    """The earliest same token, where there is one before the query."""
    return _first_of(_joined(marks.row, marks.current))


@relation("same_word")
def same_word(marks: Marks) -> Pairs:
    """Every earlier token of the same word."""
    return _earlier_of(_joined(marks.row, marks.word))


@relation("word_start")
def word_start(marks: Marks) -> Pairs:
    """The first token of the query's word, where that is not the query."""
    return _first_of(_joined(marks.row, marks.word))


@relation("previous_word")
def previous_word(marks: Marks) -> Pairs:
    """The last token of the word before the query's."""
    query, start = _first_of(_joined(marks.row, marks.word), itself=True)
    earlier = marks.position[start] > 0
    return query[earlier], start[earlier] - 1


@relation("before_word")
def before_word(marks: Marks) -> Pairs:
    """The last token of the word before, where the query does not start its own."""
    query, key = previous_word(marks)
    inside = key != query - 1
    return query[inside], key[inside]


@relation("before_start")
def before_start(marks: Marks) -> Pairs:
    """The token before, where the query starts a word."""
    query, key = previous_word(marks)
    starts = key == query - 1
    return query[starts], key[starts]


def _joined(row: Tensor, value: Tensor) -> Tensor:
    """One number for a row and what is in it."""
    return (row - row.min()) * (value.max() + 1) + value


def _ranks(group: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens ordered by group, within it as they stand, and each one's rank in its group."""
    order = group.argsort(stable=True)
    _, sizes = group[order].unique_consecutive(return_counts=True)
    starts = sizes.cumsum(0) - sizes
    return order, torch.arange(len(order), device=order.device) - starts.repeat_interleave(sizes)


def _earlier_of(group: Tensor) -> Pairs:
    """Every token with every earlier one of its group."""
    order, rank = _ranks(group)
    ends = rank.cumsum(0)
    back = torch.arange(int(rank.sum()), device=rank.device) - (ends - rank).repeat_interleave(rank)
    at = torch.arange(len(order), device=rank.device)
    query = at.repeat_interleave(rank)
    return order[query], order[query - 1 - back]


def _first_of(group: Tensor, *, itself: bool = False) -> Pairs:
    """Every token with the first one of its group; without those first ones unless ``itself``."""
    order, rank = _ranks(group)
    at = torch.arange(len(order), device=rank.device)
    some = at if itself else at[rank > 0]
    return order[some], order[some - rank[some]]
