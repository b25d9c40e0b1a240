"""What is known of each token before the model reads it: marks, made once for a block of rows and without the model.

position, previous, current      place in the row, the ids of the token before (-1 at the row's first) and its own
repeat                           distance to the last same token of the row; 0 where there is none
word                             which word of the row it belongs to, counted from 0
document                         the document of the corpus that its row is of
kinds                            bits that follow from the token's text alone (``KINDS``), and its first letter
labels                           whatever the corpus brings, -1 where it says nothing
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.running.model import Model
from caseback.stream.packing import Block

KINDS = ("special", "starts_word", "letters", "upper", "title", "digits", "punctuation", "newline", "non_ascii")
"""Bits of ``kinds``, from the lowest: what a token's text is, by itself."""


@dataclass(frozen=True)
class Marks:
    """Marks of tokens, each (token).

    Attributes
    ----------
    position, previous, current, repeat, word, document, kinds
        As in the module's list.
    row
        The row that each token stands in, counted within the block.
    labels
        By name.
    """

    position: Int[Tensor, " token"]
    previous: Int[Tensor, " token"]
    current: Int[Tensor, " token"]
    repeat: Int[Tensor, " token"]
    word: Int[Tensor, " token"]
    document: Int[Tensor, " token"]
    kinds: Int[Tensor, " token"]
    row: Int[Tensor, " token"]
    labels: dict[str, Int[Tensor, " token"]] = field(default_factory=dict)

    def __getitem__(self, tokens: Tensor) -> Marks:
        """The marks of some tokens."""
        own = {name: getattr(self, name)[tokens] for name in MARKS}
        return Marks(**own, labels={name: values[tokens] for name, values in self.labels.items()})

    def to(self, device: torch.device) -> Marks:
        """The same on a device."""
        own = {name: getattr(self, name).to(device) for name in MARKS}
        return Marks(**own, labels={name: values.to(device) for name, values in self.labels.items()})

    def kind(self, name: str) -> Tensor:
        """Where a bit of ``kinds`` is set."""
        return (self.kinds >> KINDS.index(name)) & 1 == 1

    @property
    def frequency(self) -> Int[Tensor, " token"]:
        """The bin of how often the token occurs, as ``with_frequency`` put it beside the kinds; -1 without."""
        return (self.kinds >> _FREQUENCY_AT) - 1

    @property
    def first_letter(self) -> Int[Tensor, " token"]:
        """Which letter of a to z the token's text begins with, whatever its case; -1 for another sign."""
        return ((self.kinds >> _LETTER_AT) & 31) - 1


_LETTER_AT = len(KINDS)
"""The five bits of ``kinds`` from here on hold the text's first letter, counted from 1."""
_FREQUENCY_AT = 16
"""The bits of ``kinds`` from here on hold the bin of a token's frequency, counted from 1."""
FREQUENCIES = 8
MARKS = ("position", "previous", "current", "repeat", "word", "document", "kinds", "row")


def marks_of(block: Block, kinds: Int[Tensor, " vocab"]) -> Marks:
    """The marks of a block's tokens.

    Parameters
    ----------
    block
        Rows of tokens.
    kinds
        Of every vocabulary entry, as ``token_kinds`` gives them.

    Examples
    --------
    >>> from caseback.stream.packing import Row
    >>> block = Block.of([Row([5, 7, 5], 0, 0, 0), Row([7, 5], 1, 0, 0)])
    >>> marks = marks_of(block, torch.zeros(8, dtype=torch.int32))
    >>> marks.position.tolist(), marks.previous.tolist(), marks.repeat.tolist()
    ([0, 1, 2, 0, 1], [-1, 5, 7, -1, 7], [0, 0, 2, 0, 0])
    """
    ids, lengths = block.ids.numpy().astype(np.int64), block.lengths.numpy().astype(np.int64)
    starts = block.row_starts.numpy()
    row = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(ids)) - starts[row]
    previous = np.where(position > 0, np.roll(ids, 1), -1)
    of_token = kinds.numpy()[ids]
    begins = ((of_token >> KINDS.index("starts_word")) & 1) | (position == 0)
    word = np.cumsum(begins)
    word -= word[starts[row]] if len(ids) else word
    columns = {
        "position": position,
        "previous": previous,
        "current": ids,
        "repeat": _repeats(ids, row, position),
        "word": word,
        "document": block.document.numpy()[row],
        "kinds": of_token,
        "row": row,
    }
    return Marks(
        **{name: torch.from_numpy(np.ascontiguousarray(x, dtype=np.int64)) for name, x in columns.items()},
        labels={name: values.long() for name, values in block.labels.items()},
    )


def _repeats(ids: np.ndarray, row: np.ndarray, position: np.ndarray) -> np.ndarray:
    """How far back the same token stands in the row: neighbors after a stable sort by row and id."""
    order = np.lexsort((position, ids, row))
    same = np.zeros(len(ids), bool)
    same[1:] = (ids[order][1:] == ids[order][:-1]) & (row[order][1:] == row[order][:-1])
    back = np.zeros(len(ids), np.int64)
    back[1:] = position[order][1:] - position[order][:-1]
    repeat = np.zeros(len(ids), np.int64)
    repeat[order] = np.where(same, back, 0)
    return repeat


def token_kinds(model: Model) -> Int[Tensor, " vocab"]:
    """The bits of ``KINDS`` for every vocabulary entry; all 0 where the model has no tokenizer.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> bits = token_kinds(model)[model.tokenizer(" Mary", add_special_tokens=False)["input_ids"][0]]
    >>> [name for i, name in enumerate(KINDS) if bits >> i & 1]
    ['starts_word', 'letters', 'title']
    """
    size = int(model.hf.get_input_embeddings().weight.shape[0])
    if model.tokenizer is None:
        return torch.zeros(size, dtype=torch.int32)
    # a pass over a few rows must not read a whole vocabulary each time
    sizes, known = (size, len(model.tokenizer)), _known.get(model.anatomy)
    if known is None or known[0] is not model.tokenizer or known[1] != sizes:
        known = _known[model.anatomy] = model.tokenizer, sizes, _kinds_of_vocabulary(model, size)
    return known[2].clone()


_known: WeakKeyDictionary[Anatomy, tuple[Any, tuple[int, int], Tensor]] = WeakKeyDictionary()
"""Of each model its tokenizer, the sizes of its vocabulary, and their kinds."""


def _kinds_of_vocabulary(model: Model, size: int) -> Int[Tensor, " vocab"]:
    bits = np.zeros(size, np.int32)
    special = set(getattr(model.tokenizer, "all_special_ids", ()))
    for token, text in enumerate(_texts(model, size)):
        bits[token] = 1 if token in special else kinds_of_text(text)
    return torch.from_numpy(bits)


def with_frequency(kinds: Int[Tensor, " vocab"], counts: Int[Tensor, " vocab"]) -> Int[Tensor, " vocab"]:
    """Kinds that also say how often each vocabulary entry occurs, in bins of a factor of ten.

        bin = floor(-log10 p), 7 at most,    p = (count + 1) / (sum of counts + entries)

    Parameters
    ----------
    kinds
        As ``token_kinds`` gives them.
    counts
        Of each entry, such as the unigrams of the table ``token_counts``.

    Examples
    --------
    >>> kinds = with_frequency(torch.zeros(3, dtype=torch.int32), torch.tensor([989, 7, 0]))
    >>> ((kinds >> 16) - 1).tolist()
    [0, 2, 2]
    """
    if counts.shape != kinds.shape:
        raise OutOfRange(f"counts of {tuple(counts.shape)} entries: the vocabulary has {tuple(kinds.shape)}")
    p = (counts.double() + 1) / (counts.sum() + len(counts))
    bins = (-p.log10()).floor().clamp(0, FREQUENCIES - 1).to(kinds.dtype)
    return (kinds & ((1 << _FREQUENCY_AT) - 1)) | ((bins + 1) << _FREQUENCY_AT)


def _texts(model: Model, size: int) -> Sequence[str]:
    """Each entry as text, with a leading space where it begins a word."""
    return [model.token_text(token) for token in range(size)]


def kinds_of_text(text: str) -> int:
    """The bits of a token's text, other than ``special``, and its first letter.

    Examples
    --------
    >>> [name for i, name in enumerate(KINDS) if kinds_of_text(" 12") >> i & 1]
    ['starts_word', 'digits']
    """
    bare = text.strip()
    holds: dict[str, Any] = {
        "starts_word": text[:1].isspace(),
        "letters": bare.isalpha(),
        "upper": bare.isalpha() and bare.isupper(),
        "title": bare[:1].isupper() and bare[1:] == bare[1:].lower() and bare.isalpha(),
        "digits": bare.isdecimal(),
        "punctuation": bool(bare) and all(unicodedata.category(c)[0] in "PS" for c in bare),
        "newline": "\n" in text,
        "non_ascii": not text.isascii(),
    }
    letter = bare[:1].lower()
    number = ord(letter) - ord("a") + 1 if letter and letter in ascii_lowercase else 0
    return sum(1 << KINDS.index(name) for name, true in holds.items() if true) | number << _LETTER_AT
