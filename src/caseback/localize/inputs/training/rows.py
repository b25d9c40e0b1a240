"""A corpus's gradients, one row per example: computed on the way, held in memory, or read from a store.

All that is done with them goes segment by segment (a segment is one matrix, or all of them mixed by a projection), so
that whole gradients of a large model are never side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import TokensError
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.localize.inputs.training.examples import (
    Batch,
    CorpusCounts,
    Example,
    batches,
    examples_of,
)
from caseback.localize.inputs.training.matrices import Matrix
from caseback.localize.inputs.training.objectives import in_turn
from caseback.localize.inputs.training.per_example import Objective, factors
from caseback.localize.inputs.training.projection import Projector, Segment, joined, width
from caseback.model.running.model import Model


@dataclass(eq=False)
class Chunk:
    """Some examples' rows, to be read once.

    Attributes
    ----------
    numbers
        Which examples.
    pieces
        Their rows, segment by segment.
    beside
        Other numbers of each: the objective's ``value``, and what else was asked for.
    """

    numbers: list[int]
    pieces: Iterable[Segment]
    beside: dict[str, Tensor] = field(default_factory=dict)


class Rows(Protocol):
    """Something that goes through a corpus's rows, as often as asked."""

    segments: list[slice]
    examples: list[Example]
    corpus_counts: CorpusCounts

    def __iter__(self) -> Iterator[Chunk]: ...


Beside = dict[str, Callable[[Tensor, Batch], Tensor]]


@dataclass(frozen=True, eq=False)
class Maker:
    """Everything that makes a row of an example.

    Attributes
    ----------
    model, matrices, projector, objective
        The model, its matrices, how their gradients are shortened, and what is differentiated.
    beside
        Further numbers per example, functions of the logits.
    token_budget
        Tokens in one pass.
    """

    model: Model
    matrices: Sequence[Matrix]
    projector: Projector
    objective: Objective
    beside: Beside = field(default_factory=dict)
    token_budget: int | None = None

    def chunk(self, batch: Batch) -> Chunk:
        gradients, values, logits = factors(self.model, batch, self.matrices, self.objective)
        beside = {name: fn(logits, batch).detach() for name, fn in self.beside.items()}
        return Chunk(batch.numbers, self.projector.pieces(gradients), {"value": values, **beside})

    def chunks(self, examples: Iterable[Example], *, first: int = 0) -> Iterator[Chunk]:
        for batch in batches(examples, self.model.device, token_budget=self.token_budget, first=first):
            yield self.chunk(batch)

    def of_queries(self, queries: Sequence[Example], objective: Objective) -> Float[Tensor, "query k"]:
        """The queries' rows, of another objective."""
        pieces = []
        for batch in in_turn(self.model, queries, self.token_budget):
            pieces.append(joined(self.projector, factors(self.model, batch, self.matrices, objective)[0]))
        return torch.cat(pieces)


class Live:
    """Rows computed anew in every pass."""

    def __init__(
        self,
        maker: Maker,
        examples: Sequence[Example],
        corpus_counts: CorpusCounts,
        *,
        progress: bool = False,
        what: str = "gradients",
    ):
        self.maker, self.examples, self.corpus_counts = maker, list(examples), corpus_counts
        self.progress, self.what = progress, what
        self.segments = maker.projector.segments

    def __iter__(self) -> Iterator[Chunk]:
        with progress_bar(total=len(self.examples), show=self.progress, what=self.what, unit="example") as bar:
            for chunk in self.maker.chunks(self.examples):
                yield chunk
                bar.update(len(chunk.numbers))


class Kept:
    """Rows held in memory."""

    def __init__(self, rows: Rows):
        self.segments, self.corpus_counts = rows.segments, rows.corpus_counts
        got = [(c.numbers, torch.cat([piece for _, piece in c.pieces], 1), c.beside) for c in rows]
        self.examples = rows.examples
        order = torch.tensor(list(chain.from_iterable(numbers for numbers, _, _ in got))).argsort()
        whole = torch.cat([block for _, block, _ in got])
        self.rows: Float[Tensor, "example k"] = whole[order.to(whole.device)]
        self.beside: dict[str, Tensor] = {
            name: (x := torch.cat([beside[name] for _, _, beside in got]))[order.to(x.device)] for name in got[0][2]
        }

    def __iter__(self) -> Iterator[Chunk]:
        pieces = [(segment, self.rows[:, segment]) for segment in self.segments]
        yield Chunk(list(range(len(self.rows))), pieces, self.beside)


def read_corpus(model: Model, corpus: Any, max_length: int | None) -> tuple[list[Example], CorpusCounts]:
    """All examples of a corpus, with a warning about lines that were split or left out."""
    corpus_counts = CorpusCounts()
    examples = list(examples_of(model, corpus, max_length=max_length, corpus_counts=corpus_counts))
    corpus_counts.warn()
    if not examples:
        raise TokensError("the corpus is empty: expected lines of at least 2 tokens")
    return examples, corpus_counts


def kept_if_small(rows: Live) -> Rows:
    """Hold rows in memory where they take no more bytes than ``influence_row_bytes``."""
    size = torch.empty((), dtype=rows.maker.model.dtype).element_size()
    small = len(rows.examples) * width(rows.maker.projector) * max(4, size) <= limit("influence_row_bytes")
    return Kept(rows) if small else rows


def dots(
    rows: Rows, queries: Float[Tensor, "query k"]
) -> tuple[Float[Tensor, "query example"], Float[Tensor, " example"], dict[str, Tensor]]:
    """Dot products of queries with every row, the rows' squared norms, and what stands beside them."""
    n, device = len(rows.examples), queries.device
    scores, norms = queries.new_zeros(len(queries), n), queries.new_zeros(n)
    beside: dict[str, Tensor] = {}
    for chunk in rows:
        at = torch.tensor(chunk.numbers, device=device)
        for segment, piece in chunk.pieces:
            piece = piece.to(queries)
            scores[:, at] += queries[:, segment] @ piece.T
            norms[at] += piece.square().sum(1)
        for name, values in chunk.beside.items():
            held = beside.setdefault(name, queries.new_zeros(n))
            held[at] = values.to(held)
    return scores, norms, beside
