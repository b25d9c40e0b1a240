"""What a corpus may be: anything that gives documents one after another.

    "text" | [ids] | Tokens | (any of these, labels) | {"text": ..., other fields}

A path may stand for its documents: a text file with one a line, JSON lines, Parquet, or a folder of such files in the
order of their names. A Hugging Face dataset, mapped or streamed, is an iterable of its records. Nothing is held but
the document in hand.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caseback.errors import CasebackError, LoadError, TokensError, did_you_mean
from caseback.jobs.json_text import parse_json, shortened
from caseback.jobs.text_file import open_file
from caseback.model.arguments import checked
from caseback.model.running.tokens import Tokens

Labels = Mapping[str, int | Sequence[int]]
Corpus = Path | Tokens | Iterable[Any]
"""What ``documents`` takes."""

TEXT_SUFFIXES = (".txt", ".text", ".md", ".tokens", ".raw")
LINE_SUFFIXES = (".jsonl", ".ndjson")


@checked
@dataclass(frozen=True)
class Document:
    """One text, or its token ids, with labels.

    Attributes
    ----------
    content
        Text, or token ids.
    labels
        By name a number for the whole document, or for token ids one for each of them.
    """

    content: str | list[int]
    labels: Labels = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, label in self.labels.items():
            if isinstance(label, int):
                continue
            if isinstance(self.content, str):
                raise TokensError(
                    f"label {name!r} has {len(label)} values for a text: expected one number, or a document of token "
                    "ids with a value each"
                )
            if len(label) != len(self.content):
                raise TokensError(f"label {name!r} has {len(label)} values for {len(self.content)} tokens")


def documents(corpus: Corpus, *, column: str = "text") -> Iterator[Document]:
    """The documents of a corpus, read when they are asked for.

    Parameters
    ----------
    corpus
        Texts, lists of token ids, ``Tokens``, pairs of one of these and labels, or records with a text under
        ``column``; or the ``Path`` of a file or folder.
    column
        Where records have their text (or their token ids).

    Raises
    ------
    LoadError
        For a file that is absent or cannot be read, and a column that does not exist.
    TokensError
        For what is no document.

    Examples
    --------
    >>> [document.content for document in documents(["the cat", [5, 1], ({"text": "the dog"}, {"animal": 1})])]
    ['the cat', [5, 1], 'the dog']
    """
    if isinstance(corpus, str | bytes):
        raise CasebackError(
            "one text was given where several are expected: put it in a list, or give Path(...) of a file"
        )
    if isinstance(corpus, os.PathLike):
        corpus = records_of(Path(corpus))
    if isinstance(corpus, Tokens):
        corpus = [corpus]
    if not isinstance(corpus, Iterable) or getattr(corpus, "ndim", 1) == 0:
        raise CasebackError(f"a corpus is a {type(corpus).__name__}: expected texts, lists of token ids, or a Path")
    for number, item in enumerate(corpus):
        yield from _documents_of(item, number, column)


def _documents_of(item: Any, number: int, column: str) -> Iterator[Document]:
    labels: Labels = {}
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], Mapping):
        item, labels = item[0], {name: _label(name, label, number) for name, label in item[1].items()}
    if isinstance(item, Mapping):
        if column not in item:
            raise LoadError(
                f"document {number} has no column {column!r}. {did_you_mean(column, [str(k) for k in item])}"
            )
        item = item[column]
    if isinstance(item, Tokens):
        if labels and len(item) > 1:
            raise TokensError(f"document {number} is {len(item)} prompts with labels: give labels to each prompt alone")
        for ids, mask in zip(item.ids, item.mask, strict=True):
            yield Document(ids[mask].tolist(), labels)
        return
    if isinstance(item, str):
        yield Document(item, labels)
        return
    if not isinstance(item, Sequence | Tensor | np.ndarray) or isinstance(item, bytes):
        raise TokensError(f"document {number} is a {type(item).__name__}: expected text, or token ids")
    yield Document(_ids(item, number), labels)


def _ids(item: Any, number: int) -> list[int]:
    try:
        ids = torch.as_tensor(item)
    except (TypeError, ValueError, RuntimeError):
        ids = torch.zeros(0, 0)
    if ids.ndim != 1 or (len(ids) and (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)):
        raise TokensError(f"document {number} is {shortened(repr(item), 60)}: expected text, or a list of token ids")
    return ids.tolist()


def _label(name: str, label: Any, number: int) -> int | list[int]:
    values = torch.as_tensor(label)
    if values.is_floating_point() or values.ndim > 1:
        raise TokensError(
            f"label {name!r} of document {number} is {shortened(repr(label), 60)}: expected whole numbers"
        )
    return values.tolist()


def records_of(path: Path) -> Iterator[Any]:
    """The records of a file, or of a folder's files by name: texts, or mappings of columns.

    Raises
    ------
    LoadError
        For what is absent, of another kind, or damaged.
    """
    if os.path.isdir(path):
        empty = True
        for child in _texts_in(path):
            empty = False
            yield from records_of(child)
        if empty:
            raise LoadError(f"{str(path)!r} holds no text: expected files named .txt, .jsonl, .json or .parquet")
        return
    kind = _kind(path) or _lines
    yield from kind(path)


def _texts_in(folder: Path) -> Iterator[Path]:
    """Files of text in a folder and those below it, by name, as they are met: of a whole disk the first comes at once.

    Folders that are links, which may lead in circles, and those that may not be opened are passed by.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for child in (folder / name for name in names):
        if os.path.isdir(child) and not os.path.islink(child):
            yield from _texts_in(child)
        elif _kind(child) is not None and os.path.isfile(child):
            yield child


def _kind(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix in TEXT_SUFFIXES:
        return _lines
    return {".parquet": _parquet, ".json": _json, **dict.fromkeys(LINE_SUFFIXES, _json_lines)}.get(suffix)


def _lines(path: Path) -> Iterator[str]:
    with open_file(path) as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise LoadError(f"{str(path)!r}, line {number}, is not UTF-8: save it as UTF-8") from None


def _json_lines(path: Path) -> Iterator[Any]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            try:
                yield parse_json(line)
            except ValueError as error:
                raise LoadError(f"{str(path)!r}, line {number}, is not JSON: {error}") from None


def _json(path: Path) -> Iterator[Any]:
    """A list of records, or JSON lines under the wrong name."""
    with open_file(path) as file:
        first = file.read(4096).lstrip()[:1]
    if first != b"[":
        yield from _json_lines(path)
        return
    with open_file(path) as file:
        try:
            yield from parse_json(file.read().decode("utf-8"))
        except (ValueError, TypeError) as error:
            raise LoadError(f"{str(path)!r} is no list of records: {error}") from None


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise LoadError(f"reading {str(path)!r} needs pyarrow: pip install 'caseback[data]'") from None
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise LoadError(f"{str(path)!r} cannot be read as Parquet: {error}") from None
