"""The plan of a compiled program: where each variable lies, which head or neurons write it, and what those read.

    head       score = hit · table[query, key] + bonus(key),  with the beginning of the text in between, so that the
               softmax falls on what is selected and on the beginning where nothing is
    map        one neuron per value: relu(sum of the directions that it comes from)
    pairs      relu(x + y - 1)
    number     a step between neighbors: relu(s (x - t) + 1/2) - relu(s (x - t) - 1/2)

Every score is a multiple of ``MARGIN``, and e^-MARGIN is close to the precision of a float64. Each component is placed
in the earliest layer possible. Whatever stands at the beginning is the same in every prompt, so it is computed here and
subtracted wherever a head would read it. Both embeddings mark the beginning; a reader of one of them uses that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.model.circuit import Node
from caseback.organisms.compiled.infer import Inferred, Kind, Selection, image
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
    indices,
)

MARGIN = 32.0
FINEST = 2.0**-12
"""The smallest gap between two numbers, relative to the largest, that float32 still resolves after a softmax."""


@dataclass(eq=False)
class Place:
    """A variable in the stream: one direction for a number, one per value for others.

    Attributes
    ----------
    name, kind, node
        What it carries, the values it can take, and the node that writes it.
    ready
        The branch that writes it: 2 · layer for attention, 2 · layer + 1 for the MLP, -1 for the embeddings.
    at_beginning
        (width), what it is at the beginning of the text, before the first word.
    """

    name: str
    kind: Kind
    node: Node
    ready: int
    at_beginning: Float[Tensor, " width"]

    @property
    def width(self) -> int:
        return len(self.at_beginning)

    def encoded(self, value: Any) -> Float[Tensor, " width"]:
        """A value as it lies here; None is zero."""
        return encoded(value, self.kind)


Read = tuple[Place, Float[Tensor, "width unit"]]
"""A variable, and the weights with which it is read."""


@dataclass(eq=False)
class HeadPlan:
    """A head: what its q, k and v read, the constants in q and k, and where the value goes."""

    node: Node
    reads: dict[str, list[Read]]
    constant: dict[str, Float[Tensor, " unit"]]
    out: Place


@dataclass(eq=False)
class NeuronPlan:
    """Neurons of a layer that write one variable: out += relu(reads + bias) write."""

    layer: int
    reads: list[Read]
    bias: Float[Tensor, " neuron"]
    write: Float[Tensor, "neuron width"]
    out: Place


@dataclass(eq=False)
class Plan:
    """All components of a compiled program, in the order in which they were laid out."""

    program: Inferred
    places: dict[Expression, Place] = field(default_factory=dict)
    inner: list[Place] = field(default_factory=list)
    heads: list[HeadPlan] = field(default_factory=list)
    neurons: list[NeuronPlan] = field(default_factory=list)
    beginnings: dict[str, Place] = field(default_factory=dict)

    @property
    def all_places(self) -> list[Place]:
        """Every variable of the stream, each once."""
        return list(dict.fromkeys([*self.beginnings.values(), *self.places.values(), *self.inner]))


def encoded(value: Any, kind: Kind) -> Float[Tensor, " width"]:
    """A number along its one direction, any other value along its own, None as zeros."""
    if kind.numerical:
        return torch.tensor([float(value or 0)], dtype=torch.float64)
    return torch.tensor([v == value for v in kind.listed], dtype=torch.float64)


def lay_out(program: Inferred) -> Plan:
    """Plan the components of a checked program, inputs before what reads them."""
    plan = Plan(program)
    for x, kind in program.kinds.items():
        match x:
            case Tokens() | Indices():
                _embedding(plan, x, kind)
            case Map():
                _map(plan, x, kind)
            case SequenceMap():
                _pairs(plan, x, kind)
            case Linear():
                _linear(plan, x, kind)
            case Aggregate():
                _aggregate(plan, x, kind)
            case SelectorWidth():
                _width(plan, x, kind)
    return plan


# What the embeddings write


def _embedding(plan: Plan, x: Tokens | Indices, kind: Kind) -> Place:
    same = [place for y, place in plan.places.items() if type(y) is type(x)]
    node = Node("embed" if isinstance(x, Tokens) else "pos_embed")
    plan.places[x] = same[0] if same else Place(str(x), kind, node, -1, _zeros(len(kind.listed)))
    return plan.places[x]


def _beginning(plan: Plan, kind: str) -> Place:
    """The direction in which an embedding says that this is the beginning of the text."""
    if kind not in plan.beginnings:
        plan.beginnings[kind] = Place("beginning", Kind(None, True), Node(kind), -1, _ones(1))
    return plan.beginnings[kind]


# Heads


def _aggregate(plan: Plan, x: Aggregate, kind: Kind) -> None:
    selection, given = plan.program.selections[x.select], plan.places[x.x]
    fetch = torch.eye(given.width, len(encoded(None, kind)), dtype=torch.float64)
    reads = [(given, fetch)]
    if x.beginning or not selection.total:
        reads += _at_beginning(plan, reads, encoded(x.default, kind) - given.at_beginning @ fetch)
    plan.places[x] = _head(plan, x.select, str(x), kind, reads, beginning_counts=x.beginning)


def _width(plan: Plan, x: SelectorWidth, kind: Kind) -> None:
    # the beginning is selected too, as one more position, so its share of the softmax is 1 / (1 + how many)
    shares = Kind(tuple(Fraction(1, 1 + n) for n in reversed(kind.listed)), True)
    value = [(_beginning(plan, "embed"), _ones(1, 1))]
    share = _head(plan, x.select, f"share of {x}", shares, value, beginning_counts=True)
    plan.inner.append(share)
    images = [1 / value - 1 for value in shares.listed]
    plan.places[x] = _by_steps(plan, x, share, [int(n) for n in images], kind)


def _head(plan: Plan, select: Select, name: str, kind: Kind, value: list[Read], *, beginning_counts: bool) -> Place:
    reads, constant = _scores(plan, select, beginning_counts)
    reads["v"] = value
    layer = (max(place.ready for part in reads.values() for place, _ in part) + 2) // 2
    index = sum(head.node.layer == layer for head in plan.heads)
    at_beginning = _sum([place.at_beginning @ matrix for place, matrix in value])
    out = Place(name, kind, Node("head", layer, index), 2 * layer, at_beginning)
    plan.heads.append(HeadPlan(out.node, reads, constant, out))
    return out


def _scores(plan: Plan, select: Select, beginning_counts: bool) -> tuple[dict[str, list[Read]], dict[str, Tensor]]:
    """What q and k of a head read, and their constants: some units for the table, one for what keys alone decide."""
    selection = plan.program.selections[select]
    keys, queries = plan.places[select.keys], plan.places[select.queries]
    bonus, ranks = _bonus(plan, select)
    hit = (ranks + 1) * MARGIN
    if selection.everything:
        start = 0.0 if beginning_counts else -MARGIN
    elif beginning_counts:
        start = hit
    else:
        start = 0.0 if selection.total else hit - MARGIN
    by_query, by_key, q_constant, k_constant = _factored(plan, select, selection)
    n = len(q_constant)
    q = [(queries, _padded(by_query, 0, 1))]
    k = [(keys, hit * _padded(by_key, 0, 1)), *[(place, _padded(weights, n, 0)) for place, weights in bonus]]
    constant = {"q": torch.cat([q_constant, _ones(1)]), "k": torch.cat([hit * k_constant, _zeros(1)])}
    stands = _sum([constant["k"], *(place.at_beginning @ weights for place, weights in k)])
    k += _at_beginning(plan, k, torch.cat([_zeros(n), start * _ones(1)]) - stands)
    used = _sum([constant["k"].abs(), *(weights.abs().sum(0) for _, weights in k)]) > 0
    reads = {slot: [(place, w[:, used]) for place, w in part if bool(w.any())] for slot, part in (("q", q), ("k", k))}
    return reads, {slot: values[used] for slot, values in constant.items()}


def _bonus(plan: Plan, select: Select) -> tuple[list[Read], int]:
    """A margin for every rank by which a key is preferred over others, and how many ranks there are."""
    if not select.prefer:
        return [], 1
    if select.prefer in ("largest", "smallest"):
        place = plan.places[select.keys]
        order = sorted(place.kind.listed)
    else:
        place = _embedding(plan, indices, Kind(tuple(range(plan.program.max_length))))
        order = list(place.kind.listed)
    ranks = torch.tensor([order.index(value) for value in place.kind.listed]).double()
    if select.prefer in ("earliest", "smallest"):
        ranks = len(order) - 1 - ranks
    return [(place, MARGIN * ranks[:, None])], len(order)


def _factored(plan: Plan, select: Select, selection: Selection) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The table as a product of queries and keys: (q, unit), (k, unit) and the constants of both.

    The rank is the smaller number of distinct rows or columns: each query is matched with its row's pattern, or each
    key with its column's.
    """
    table = torch.tensor(selection.table).double()
    n_q, n_k = table.shape
    optional = {x: plan.program.kinds[x].optional for x in select.inputs()}
    if selection.everything:
        return _zeros(n_q, 0), _zeros(n_k, 0), _zeros(0), _zeros(0)
    if not optional[select.queries] and bool((table == table[:1]).all()):
        return _zeros(n_q, 1), table[:1].T, _ones(1), _zeros(1)
    if not optional[select.keys] and bool((table == table[:, :1]).all()):
        return table[:, :1], _zeros(n_k, 1), _zeros(1), _ones(1)
    rows, columns = table.unique(dim=0), table.T.unique(dim=0)
    if len(rows) <= len(columns):
        return _matches(table, rows), rows.T, _zeros(len(rows)), _zeros(len(rows))
    return columns.T, _matches(table.T, columns), _zeros(len(columns)), _zeros(len(columns))


def _matches(rows: Tensor, among: Tensor) -> Tensor:
    return (rows[:, None] == among).all(-1).double()


def _at_beginning(plan: Plan, reads: list[Read], weights: Float[Tensor, " unit"]) -> list[Read]:
    """One more read, of the beginning with these weights; none if they are zero. It prefers a node already read."""
    if not bool((weights.abs() > 1e-9).any()):
        return []
    kinds = [place.node.kind for place, matrix in reads if bool(matrix.any())]
    kind = "pos_embed" if "pos_embed" in kinds and "embed" not in kinds else "embed"
    return [(_beginning(plan, kind), weights[None])]


# Neurons


def _map(plan: Plan, x: Map, kind: Kind) -> None:
    given = plan.places[x.x]
    images = [image(x, (value,)) for value in given.kind.listed]
    if given.kind.numerical:
        plan.places[x] = _by_steps(plan, x, given, images, kind)
        return
    distinct = [value for value in dict.fromkeys(images) if bool(encoded(value, kind).any())]
    come = torch.tensor([[output == value for value in distinct] for output in images]).double()
    come = come.view(given.width, len(distinct))
    plan.places[x] = _mlp(plan, x, [(given, come)], [0.0] * len(distinct), distinct, kind)


def _pairs(plan: Plan, x: SequenceMap, kind: Kind) -> None:
    first, second = plan.places[x.x], plan.places[x.y]
    table = [[image(x, (a, b)) for b in second.kind.listed] for a in first.kind.listed]
    by_first = _groups(table, kind)
    by_second = _groups([list(column) for column in zip(*table, strict=True)], kind)
    swapped = len(by_second) < len(by_first)
    groups, one, other = (by_second, second, first) if swapped else (by_first, first, second)
    alone, together = _zeros(one.width, len(groups)), _zeros(other.width, len(groups))
    for n, (i, others, _) in enumerate(groups):
        alone[i, n] = 1
        together[others, n] = 1
    values = [value for _, _, value in groups]
    plan.places[x] = _mlp(plan, x, [(one, alone), (other, together)], [-1.0] * len(groups), values, kind)


def _groups(table: list[list[Any]], kind: Kind) -> list[tuple[int, list[int], Any]]:
    """(row, columns, value) per value of each row: one neuron serves all pairs of a row with the same value."""
    groups = []
    for i, row in enumerate(table):
        for value in dict.fromkeys(row):
            if bool(encoded(value, kind).any()):
                groups.append((i, [j for j, v in enumerate(row) if v == value], value))
    return groups


def _by_steps(plan: Plan, x: Expression, given: Place, images: Sequence[Any], kind: Kind) -> Place:
    """A map of a number: its image at the smallest value, and a step wherever the image changes."""
    values = given.kind.listed
    vectors = [encoded(output, kind) for output in images]
    slopes, bias, write = [0.0], [1.0], [vectors[0]]
    largest = max(abs(value) for value in values)
    for (low, before), (high, after) in pairwise(zip(values, vectors, strict=True)):
        if torch.equal(before, after):
            continue
        if high - low < FINEST * largest:
            raise ProgramError(
                f"{x}: {given.name} can be {low} or {high}, too close to be told apart in float32; shorten max_length"
            )
        slope, middle = float(2 / (high - low)), float((low + high) / 2)
        slopes += [slope, slope]
        bias += [0.5 - slope * middle, -0.5 - slope * middle]
        write += [after - before, before - after]
    useful = [n for n, row in enumerate(write) if bool(row.any())]
    reads = [(given, torch.tensor([[slopes[n] for n in useful]]).double())]
    return _neurons(plan, str(x), reads, [bias[n] for n in useful], [write[n] for n in useful], kind)


def _linear(plan: Plan, x: Linear, kind: Kind) -> None:
    both = torch.tensor([[1.0, -1.0]]).double()
    reads = [(plan.places[y], float(factor) * both) for factor, y in x.terms]
    constant = float(x.constant)
    plan.places[x] = _neurons(plan, str(x), reads, [constant, -constant], list(both.T), kind)


def _mlp(plan: Plan, x: Expression, reads: list[Read], bias: list[float], values: Sequence[Any], kind: Kind) -> Place:
    return _neurons(plan, str(x), reads, bias, [encoded(value, kind) for value in values], kind)


def _neurons(plan: Plan, name: str, reads: list[Read], bias: list[float], write: list[Tensor], kind: Kind) -> Place:
    width = len(encoded(None, kind))
    constant = torch.tensor(bias).double()
    matrix = torch.stack(write) if write else _zeros(0, width)
    layer = (max(place.ready for place, _ in reads) + 1) // 2 if reads else 0
    inside = _sum([constant, *(place.at_beginning @ weights for place, weights in reads)])
    out = Place(name, kind, Node("mlp", layer), 2 * layer + 1, inside.relu() @ matrix)
    plan.neurons.append(NeuronPlan(layer, reads, constant, matrix, out))
    return out


def _sum(parts: list[Tensor]) -> Tensor:
    first, *rest = parts
    return sum(rest, first)


def _padded(weights: Float[Tensor, "width unit"], before: int, after: int) -> Tensor:
    """The same weights with empty units before and after them."""
    return torch.nn.functional.pad(weights, (before, after))


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


def _ones(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.float64)
