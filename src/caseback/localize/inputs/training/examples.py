"""Training examples and queries as rows of tokens, and batches of them.

    counted[b, t] = 1 where the prediction of token t + 1 is part of the loss

A corpus is streamed: lines become examples one after another, and a line past the context becomes several. Pieces
overlap by one token, so that every token but a line's first is predicted exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.jobs.budget import limit
from caseback.jobs.fingerprint import fingerprint
from caseback.jobs.warned import warn
from caseback.model.anatomy.coerce import are_several
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens, expect_characters, tokenize


@dataclass(frozen=True)
class Example:
    """One row of tokens.

    Attributes
    ----------
    ids
        The tokens.
    line, piece
        Which item of the corpus it comes from, and which part of it.
    first
        Index of the first token whose prediction counts, 1 at least.
    """

    ids: tuple[int, ...]
    line: int
    piece: int = 0
    first: int = 1


@dataclass
class CorpusCounts:
    """What became of a corpus on its way into examples."""

    split: int = 0
    pieces: int = 0
    skipped: int = 0
    width: int | None = None

    def warn(self) -> None:
        """Warn about lines that were split or left out."""
        if self.split:
            warn(
                f"{self.split} lines of the corpus are longer than {self.width} tokens: they were split into "
                f"{self.pieces} examples",
                stacklevel=3,
            )
        if self.skipped:
            warn(
                f"{self.skipped} lines of the corpus have fewer than 2 tokens, so nothing in them is predicted: "
                "they were left out",
                stacklevel=3,
            )


def examples_of(
    model: Model, corpus: Any, *, max_length: int | None = None, corpus_counts: CorpusCounts | None = None
) -> Iterator[Example]:
    """Stream a corpus as examples.

    Parameters
    ----------
    model
        Its tokenizer and context.
    corpus
        An iterable of texts, of lists of token ids or of id tensors; or ``Tokens``.
    max_length
        Tokens at which a line is split; the model's context by default (no limit where it has none).
    corpus_counts
        Counts what was split and left out.

    Raises
    ------
    CasebackError
        For a corpus that is a single text or a path, or an item that is none of these.
    OutOfRange
        For a ``max_length`` below 2 or past the context.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> [e.ids for e in examples_of(model, [[5, 6, 7, 8, 9], [4, 3]], max_length=3)]
    [(5, 6, 7), (7, 8, 9), (4, 3)]
    """
    corpus_counts = CorpusCounts() if corpus_counts is None else corpus_counts
    width = model.context if max_length is None else max_length
    if width is not None and (width < 2 or width > (model.context or width)):
        raise OutOfRange(f"max_length is {width}: expected 2 to {model.context or 'any'}, the model's context")
    corpus_counts.width = width
    for line, ids in _lines(model, corpus):
        if len(ids) < 2:
            corpus_counts.skipped += 1
        elif width is None or len(ids) <= width:
            yield Example(tuple(ids), line)
        else:
            corpus_counts.split += 1
            for piece, start in enumerate(range(0, len(ids) - 1, width - 1)):
                corpus_counts.pieces += 1
                yield Example(tuple(ids[start : start + width]), line, piece)


def reusable(corpus: Any) -> Any:
    """A corpus that can be gone through more than once: an iterator becomes a list."""
    return list(corpus) if isinstance(corpus, Iterator) else corpus


def _lines(model: Model, corpus: Any) -> Iterator[tuple[int, list[int]]]:
    if isinstance(corpus, str | bytes | Path):
        raise CasebackError(
            f"corpus is {str(corpus)[:60]!r}: expected several texts or rows of token ids. Read a file first: "
            "open(path).read().splitlines()"
        )
    if isinstance(corpus, Tokens):
        corpus = [row[mask].tolist() for row, mask in zip(corpus.ids, corpus.mask, strict=True)]
    if not are_several(corpus):
        raise CasebackError(f"corpus is a {type(corpus).__name__}: expected an iterable of texts or of token ids")
    numbered = enumerate(corpus)
    while some := list(islice(numbered, limit("corpus_lines"))):
        texts = [item for _, item in some if isinstance(item, str)]
        if texts and model.tokenizer is None:
            raise TokensError("this model has no tokenizer: give a corpus of token ids, or load it with tokenizer=")
        for line, item in some:
            if isinstance(item, str):
                expect_characters(item, f"line {line} of the corpus", TokensError)
        tokenized = iter(model.tokenizer(texts)["input_ids"] if texts else [])
        for line, item in some:
            yield line, next(tokenized) if isinstance(item, str) else _ids(model, item, line)


def _ids(model: Model, item: Any, line: int) -> list[int]:
    row = torch.as_tensor(item) if isinstance(item, Sequence | Tensor) else None
    if row is None or row.ndim != 1 or (len(row) and row.is_floating_point()):
        raise TokensError(f"line {line} of the corpus is neither text nor a list of token ids: {str(item)[:60]!r}")
    if len(row) and not 0 <= int(row.min()) <= int(row.max()) < model.d_vocab:
        raise TokensError(f"line {line} of the corpus has a token id outside 0 to {model.d_vocab - 1}")
    return [int(token) for token in row.tolist()]


def queries_of(model: Model, queries: Any) -> list[Example]:
    """Queries as rows of tokens: texts whose every token counts, or pairs of a prompt and its completion.

    Parameters
    ----------
    model
        The model.
    queries
        ``Tokens``, or one or several of: text, a list of ids, a pair (prompt, completion) of texts or of lists of
        ids, of which only the completion counts.

    Raises
    ------
    TokensError
        For an empty query or completion, one past the context, or one in which nothing is predicted.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> [q.first for q in queries_of(model, [[4, 5, 6], ([4, 5], [6])])]
    [1, 2]
    """
    if isinstance(queries, Tokens):
        queries = [row[mask].tolist() for row, mask in zip(queries.ids, queries.mask, strict=True)]
    pair = isinstance(queries, tuple) and len(queries) == 2
    if isinstance(queries, str) or pair or (isinstance(queries, list) and queries and isinstance(queries[0], int)):
        queries = [queries]
    if not are_several(queries):
        raise TokensError(
            f"queries is a {type(queries).__name__}: expected a text, a pair (prompt, completion), or several"
        )
    examples = []
    for number, query in enumerate(queries):
        if isinstance(query, tuple) and len(query) != 2:
            raise TokensError(f"query {number} is a tuple of {len(query)}: expected a pair (prompt, completion)")
        prompt, completion = query if isinstance(query, tuple) else (query, None)
        ids, first = _row(model, prompt), 1
        if completion is not None:
            first = len(ids)
            ids += _row(model, completion, bos=False)
        if model.context is not None and len(ids) > model.context:
            raise TokensError(f"query {number} has {len(ids)} tokens, the model's context is {model.context}")
        examples.append(Example(tuple(ids), number, first=first))
    if not examples:
        raise TokensError("no query given: expected a text, a pair (prompt, completion), or several of them")
    return examples


def _row(model: Model, text: Any, bos: bool | None = None) -> list[int]:
    tokens = tokenize(text, model.tokenizer, d_vocab=model.d_vocab, context=None, bos=bos)
    if len(tokens) != 1:
        raise TokensError(f"{str(text)[:60]!r} is several prompts where one query was expected")
    return tokens.ids[0].tolist()


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples side by side, padded on the right.

    Attributes
    ----------
    numbers
        Which examples of the corpus they are, in its order.
    tokens
        The rows.
    counted
        (batch, pos), where the next token's prediction is part of the loss.
    """

    numbers: list[int]
    tokens: Tokens
    counted: Bool[Tensor, "batch pos"]


def batch_of(examples: Sequence[Example], numbers: Sequence[int], device: torch.device) -> Batch:
    """Pad examples into a batch."""
    lengths = torch.tensor([len(e.ids) for e in examples])
    ids = torch.zeros(len(examples), int(lengths.max()), dtype=torch.long)
    for row, example in enumerate(examples):
        ids[row, : lengths[row]] = torch.tensor(example.ids)
    at = torch.arange(ids.shape[1])
    first = torch.tensor([e.first for e in examples])
    counted = (at + 1 < lengths[:, None]) & (at + 1 >= first[:, None])
    tokens = Tokens(ids, at < lengths[:, None], [[""] * n for n in lengths.tolist()])
    return Batch(list(numbers), tokens.to(device), counted.to(device))


def batches(
    examples: Iterable[Example], device: torch.device, *, token_budget: int | None = None, first: int = 0
) -> Iterator[Batch]:
    """Batches under a budget of tokens; inside a window of examples those of like length go together.

    Parameters
    ----------
    examples
        In the corpus's order.
    device
        Where batches go.
    token_budget
        Tokens in one batch, padding included; an example longer than that is a batch of its own.
    first
        The number of the first example.
    """
    token_budget = limit("influence_tokens", given=token_budget)
    if token_budget < 1:
        raise OutOfRange(f"token_budget is {token_budget}: expected at least 1 token")
    numbered = enumerate(examples, first)
    while window := list(islice(numbered, limit("influence_window"))):
        window.sort(key=lambda pair: len(pair[1].ids))
        held: list[tuple[int, Example]] = []
        for pair in window:
            if held and (len(held) + 1) * len(pair[1].ids) > token_budget:
                yield batch_of([e for _, e in held], [n for n, _ in held], device)
                held = []
            held.append(pair)
        yield batch_of([e for _, e in held], [n for n, _ in held], device)


def text_of(model: Model, example: Example) -> str:
    """An example as people read it."""
    if model.tokenizer is None:
        return " ".join(map(str, example.ids))
    return model.tokenizer.decode(list(example.ids), skip_special_tokens=True)


def digest(examples: Iterable[Example]) -> str:
    """A checksum of rows of tokens."""
    return fingerprint([[e.line, e.piece, e.first, e.ids] for e in examples])
