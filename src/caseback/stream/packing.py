"""Documents as rows of tokens, and rows as blocks: what one shard of a pass over a corpus works on.

    document = t1 t2 ... tn      rows: p t1 .. tm | p t(m+1) .. t(2m) | ...      p: what stands in front of each row

A row holds one document or a part of it, so nothing is read across two. A longer document is cut, and each of its rows
begins with what the tokenizer puts before a text (or with the model's own first token), so that none begins in a way
that the model never saw. Within a block, batches are made of rows of like length: little of a batch is padding, and
its composition follows from the block alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.jobs.budget import limit
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens, expect_characters
from caseback.stream.documents import Document

ROW = 128
"""Tokens of a row at most, where nobody says how many."""
_NONE = torch.zeros(0, dtype=torch.int32)


@dataclass(frozen=True)
class Row:
    """A row of token ids.

    Attributes
    ----------
    ids
        The tokens, those in front included.
    document, start
        Its document, and the place in it of the row's first token after those in front.
    front
        How many tokens stand in front.
    labels
        By name a number for each token; -1 for those in front.
    """

    ids: list[int]
    document: int
    start: int
    front: int
    labels: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """Rows one behind another.

    Attributes
    ----------
    ids
        All tokens, (token).
    lengths, document, start, front
        Of each row, as in ``Row``, (row).
    labels
        By name, (token).
    first_row, first_token
        How many rows and tokens of the corpus stand before the block.
    """

    ids: Int[Tensor, " token"]
    lengths: Int[Tensor, " row"]
    document: Int[Tensor, " row"]
    start: Int[Tensor, " row"]
    front: Int[Tensor, " row"]
    labels: dict[str, Int[Tensor, " token"]] = field(default_factory=dict)
    first_row: int = 0
    first_token: int = 0

    @classmethod
    def of(cls, rows: list[Row], first_row: int = 0, first_token: int = 0) -> Block:
        """Rows as a block; a label that some rows lack is -1 there."""
        names = sorted({name for row in rows for name in row.labels})
        labels = {
            name: _integers(label for row in rows for label in row.labels.get(name) or [-1] * len(row.ids))
            for name in names
        }
        return cls(
            _integers(token for row in rows for token in row.ids),
            _integers(len(row.ids) for row in rows),
            _integers(row.document for row in rows),
            _integers(row.start for row in rows),
            _integers(row.front for row in rows),
            labels,
            first_row,
            first_token,
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def n_tokens(self) -> int:
        """How many tokens all rows have."""
        return len(self.ids)

    @property
    def row_starts(self) -> Int[Tensor, " row"]:
        """Where each row begins among the tokens."""
        ends = self.lengths.long().cumsum(0)
        return ends - self.lengths

    def row(self, number: int) -> list[int]:
        """The tokens of a row."""
        first = int(self.row_starts[number])
        return self.ids[first : first + int(self.lengths[number])].tolist()

    def batches(self, tokens: int, *, side: str = "right", pad_id: int = 0) -> Iterator[tuple[Tokens, Tensor]]:
        """Batches of rows of like length, the longest first, and which rows they are.

        Parameters
        ----------
        tokens
            How many a batch may have, padding included; a longer row is a batch of its own.
        side
            The side of the padding.
        pad_id
            What stands there.
        """
        order = np.argsort(-self.lengths.numpy(), kind="stable")
        starts, lengths = self.row_starts.numpy(), self.lengths.numpy()
        at = 0
        while at < len(order):
            width = int(lengths[order[at]])
            rows = np.sort(order[at : at + max(1, tokens // width)])
            at += len(rows)
            column = np.arange(width)[None, :]
            shift = (width - lengths[rows])[:, None] if side == "left" else 0
            mask = (column >= shift) & (column - shift < lengths[rows][:, None])
            place = np.where(mask, starts[rows][:, None] + column - shift, 0)
            ids = torch.from_numpy(np.where(mask, self.ids.numpy()[place], pad_id)).long()
            yield Tokens(ids, torch.from_numpy(mask), [[] for _ in rows]), torch.from_numpy(rows)

    def tensors(self) -> dict[str, Tensor]:
        """The block as tensors, for a file."""
        own = {name: getattr(self, name) for name in ("ids", "lengths", "document", "start", "front")}
        return own | {f"label.{name}": values for name, values in self.labels.items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], first_row: int, first_token: int) -> Block:
        """Read what ``tensors`` gave."""
        labels = {name[6:]: values for name, values in tensors.items() if name.startswith("label.")}
        own = {name: values for name, values in tensors.items() if not name.startswith("label.")}
        return cls(**own, labels=labels, first_row=first_row, first_token=first_token)


def _integers(values: Iterable[int]) -> Tensor:
    return torch.from_numpy(np.fromiter(values, np.int32))


def front_of(model: Model, bos: bool | None = None) -> list[int]:
    """What stands in front of each row.

    Parameters
    ----------
    model
        The model.
    bos
        ``True`` for the tokenizer's or the configuration's first token, ``False`` for nothing; by default what the
        tokenizer puts before a text.

    Raises
    ------
    CasebackError
        For ``True`` where the model has no such token.

    Examples
    --------
    >>> import caseback as cb
    >>> len(front_of(cb.load("meadow")))
    1
    """
    if bos is False:
        return []
    if bos is None:
        return [] if model.tokenizer is None else _put_before(model.tokenizer)
    own = getattr(model.tokenizer, "bos_token_id", None)
    own = getattr(model.hf.config, "bos_token_id", None) if own is None else own
    if own is None:
        raise CasebackError(
            "this model has no first token (bos_token_id): choose bos=False, or leave it to the tokenizer"
        )
    return [int(own)]


def _put_before(tokenizer: Any) -> list[int]:
    text = next((text for text in chain(("a",), _words(tokenizer)) if _knows(tokenizer, text)), "a")
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = tokenizer(text)["input_ids"]
    at = next((i for i in range(len(ids)) if ids[i : i + len(bare)] == bare), 0)
    return list(ids[:at])


def _words(tokenizer: Any) -> Iterator[str]:
    """Texts of the vocabulary: a small one may not know any letter."""
    special = set(tokenizer.all_special_ids)
    return (tokenizer.decode([i]) for i in range(len(tokenizer)) if i not in special)


def _knows(tokenizer: Any, text: str) -> bool:
    try:
        return bool(tokenizer(text, add_special_tokens=False)["input_ids"])
    except (TokensError, ValueError, KeyError):
        return False


def row_length(model: Model, length: int | None) -> int:
    """Tokens per row at most: what is asked for, or 128, or the context where that is shorter.

    Examples
    --------
    >>> import caseback as cb
    >>> row_length(cb.load("meadow"), None), row_length(cb.load("meadow"), 12)
    (128, 12)
    """
    return min(ROW, model.context or ROW) if length is None else length


def rows_of(
    model: Model,
    corpus: Iterable[Document],
    *,
    length: int | None = None,
    least: int = 2,
    bos: bool | None = None,
    ahead: int | None = None,
) -> Iterator[Row]:
    """The rows of documents, in their order.

    Parameters
    ----------
    model
        The model; its tokenizer cuts texts, and no row is longer than its context.
    corpus
        Documents, as ``documents`` gives them.
    length
        Tokens per row at most, those in front included; 128 by default, or the context where that is shorter.
    least
        Shorter rows are left out.
    bos
        What stands in front; see ``front_of``. Documents of token ids are taken as they are.
    ahead
        How many documents are read at a time, since a tokenizer is faster on many; by default the limit
        ``corpus_lines``.

    Raises
    ------
    OutOfRange
        If ``length`` exceeds the context, or the sizes leave nothing.
    CasebackError
        For texts where the model has no tokenizer.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> [row.start for row in rows_of(model, [Document("Mary went to the store"), Document("the cat")], length=4)]
    [0, 3, 0]
    """
    context = model.context
    length = row_length(model, length)
    if context is not None and length > context:
        raise OutOfRange(f"rows of {length} tokens: the model's context is {context}")
    if not length >= least >= 1:
        raise OutOfRange(f"rows of {length} tokens, {least} at least: expected 1 or more of each")
    front = front_of(model, bos)
    numbered, at_once = iter(enumerate(corpus)), limit("corpus_lines", given=ahead)
    while some := list(islice(numbered, at_once)):
        texts = [document.content for _, document in some if isinstance(document.content, str)]
        encoded = iter(_encoded(model, texts))
        for number, document in some:
            own = next(encoded) if isinstance(document.content, str) else document.content
            before = front if isinstance(document.content, str) or bos else []
            if length <= len(before):
                raise OutOfRange(f"rows of {length} tokens have no room besides the {len(before)} that stand in front")
            yield from (row for row in _cut(own, document, number, before, length) if len(row.ids) >= least)


def _encoded(model: Model, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    if model.tokenizer is None:
        raise CasebackError("this model has no tokenizer: give a corpus of token ids, or load it with tokenizer=")
    for text in texts:
        expect_characters(text, f"document {repr(text)[:40]}", TokensError)
    return model.tokenizer(texts, add_special_tokens=False)["input_ids"]


def _cut(own: list[int], document: Document, number: int, front: list[int], length: int) -> Iterator[Row]:
    if isinstance(document.content, str) and not document.content.strip():
        return
    step = length - len(front)
    for start in range(0, len(own), step):
        ids = [*front, *own[start : start + step]]
        labels = {
            name: [-1] * len(front)
            + ([label] * (len(ids) - len(front)) if isinstance(label, int) else list(label[start : start + step]))
            for name, label in document.labels.items()
        }
        yield Row(ids, number, start, len(front), labels)


def blocks_of(
    rows: Iterable[Row], tokens: int, *, interleave: int = 1, seed: int = 0, first_row: int = 0, first_token: int = 0
) -> Iterator[Block]:
    """Rows in blocks of about so many tokens.

    Parameters
    ----------
    rows
        Rows in the corpus's order.
    tokens
        Tokens of a block: it ends with the row that reaches them.
    interleave
        So many blocks are filled at a time, documents dealt to them in an order drawn from ``seed``; with 1 blocks
        follow the corpus.
    seed
        Same seed, same result.
    first_row, first_token
        What stands before.

    Examples
    --------
    >>> rows = [Row([1, 2, 3], document, 0, 0) for document in range(5)]
    >>> [block.document.tolist() for block in blocks_of(rows, 6)]
    [[0, 1], [2, 3], [4]]
    >>> [block.document.tolist() for block in blocks_of(rows, 6, interleave=2)]
    [[1, 2], [0, 3], [4]]
    """
    if tokens < 1 or interleave < 1:
        raise OutOfRange(f"blocks of {tokens} tokens, {interleave} at a time: expected 1 or more of each")
    for group in _groups(rows, tokens * interleave):
        for part in _dealt(group, interleave, seed):
            block = Block.of(part, first_row, first_token)
            first_row, first_token = first_row + len(block), first_token + block.n_tokens
            yield block


def _groups(rows: Iterable[Row], tokens: int) -> Iterator[list[Row]]:
    group, size = [], 0
    for row in rows:
        group.append(row)
        size += len(row.ids)
        if size >= tokens:
            yield group
            group, size = [], 0
    if group:
        yield group


def _dealt(group: list[Row], interleave: int, seed: int) -> list[list[Row]]:
    """A group's documents dealt to blocks: each to the one that has fewest tokens, in a drawn order."""
    if interleave == 1:
        return [group]
    by_document: dict[int, list[Row]] = {}
    for row in group:
        by_document.setdefault(row.document, []).append(row)
    drawn = np.random.default_rng([seed, group[0].document]).permutation(list(by_document))
    parts: list[list[int]] = [[] for _ in range(interleave)]
    sizes = [0] * interleave
    for document in drawn:
        least = sizes.index(min(sizes))
        parts[least].append(document)
        sizes[least] += sum(len(row.ids) for row in by_document[document])
    return [[row for document in sorted(part) for row in by_document[document]] for part in parts if part]
