"""Running text as rows of tokens: what is fitted or collected over a corpus reads it in this way.

A text longer than a row is cut into rows; what a tokenizer puts before a text stands before each of them, so that no
row begins in a way that the model never saw. Nothing is joined: a row holds one text or a part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.jobs.budget import limit
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens, expect_characters


def corpus_rows(
    model: Model, texts: Iterable[str], *, length: int | None = None, batch: int | None = None, least: int = 2
) -> Iterator[Tokens]:
    """Batches of token rows of a corpus, in the corpus's order, each read when it is asked for.

    Parameters
    ----------
    model
        The model. Its tokenizer cuts the texts; no row is longer than its context.
    texts
        Texts, or lists of token ids; an iterator is used up.
    length
        Tokens per row at most; 128 by default, or the model's context where that is shorter.
    batch
        Rows per batch.
    least
        Shorter rows are left out.

    Raises
    ------
    OutOfRange
        If ``length`` exceeds the context, or the sizes leave nothing.
    CasebackError
        If one text was given where several are expected.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> [rows.shape for rows in corpus_rows(model, ["Mary went to the store", "the cat"], length=4, batch=8)]
    [(3, 4)]
    """
    if isinstance(texts, str):
        raise CasebackError("one text was given where several are expected: put it in a list")
    context = model.context
    length = min(128, context or 128) if length is None else length
    if context is not None and length > context:
        raise OutOfRange(f"rows of {length} tokens: the model's context is {context}")
    batch = limit("corpus_rows", given=batch)
    if not (batch >= 1 and length >= least >= 1):
        raise OutOfRange(f"rows of {length} tokens, {batch} per batch, {least} at least: expected 1 or more of each")
    rows = (row for text in texts for row in _cut(model, text, length) if len(row) >= least)
    while chunk := list(islice(rows, batch)):
        yield model.tokens(chunk)


def _cut(model: Model, text: str | list[int], length: int) -> list[list[int]]:
    if not isinstance(text, str):
        if not isinstance(text, Sequence | Tensor) or getattr(text, "ndim", 1) != 1:
            raise TokensError(f"a text is a {type(text).__name__}: expected text, or token ids")
        return [list(text[i : i + length]) for i in range(0, len(text), length)]
    if not text.strip():
        return []
    if model.tokenizer is None:
        raise CasebackError("this model has no tokenizer: give a corpus of token ids, or load it with tokenizer=")
    expect_characters(text, repr(text)[:40], TokensError)
    ids = model.tokenizer(text)["input_ids"]
    bare = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    before = ids[: len(ids) - len(bare)] if ids[-len(bare) :] == bare else []
    step = length - len(before)
    if step < 1:
        raise OutOfRange(f"rows of {length} tokens have no room besides the {len(before)} that the tokenizer adds")
    return [[*before, *bare[i : i + step]] for i in range(0, len(bare), step)]
