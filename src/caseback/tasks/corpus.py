"""Running text as batches of token rows, for what is fitted over a corpus: the rows of ``stream``, a few at a time.

A text longer than a row is cut into rows; what a tokenizer puts before a text stands before each of them, so that no
row begins in a way that the model never saw. Nothing is joined: a row holds one text or a part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from jaxtyping import Bool
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.jobs.budget import limit
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.stream.documents import documents
from caseback.stream.packing import rows_of


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
    batch = limit("corpus_rows", given=batch)
    if batch < 1:
        raise OutOfRange(f"batches of {batch} rows: expected 1 or more")
    # no more texts are read ahead than a batch has rows: whoever takes a few batches leaves the rest unread
    rows = (row.ids for row in rows_of(model, documents(texts), length=length, least=least, ahead=batch))
    while chunk := list(islice(rows, batch)):
        yield model.tokens(chunk)


def counted_tokens(model: Model, tokens: Tokens, skip_first: int, skip_special: bool) -> Bool[Tensor, "batch pos"]:
    """Real tokens but each row's first ones and, if asked for, special ones."""
    taken = tokens.mask & (tokens.position_ids >= skip_first)
    special = getattr(model.tokenizer, "all_special_ids", []) if skip_special else []
    return taken & ~torch.isin(tokens.ids, torch.tensor(special, dtype=tokens.ids.dtype, device=tokens.ids.device))
