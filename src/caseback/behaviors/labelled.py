"""Labels of documents: what a corpus says of each text, for kinds of units that are about that.

    {"text": "def f(x): ...", "domain": "code"}        ("Bonjour", {"language": "French"})

Columns of ``CLASSES`` hold a class each (text, a number, a truth value), those of ``NUMBERS`` a number. Others are
left alone, and so are values of another sort: such a document has no label. Folds share each class alike.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from caseback.errors import CasebackError, SiteAbsent
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.stream.documents import Corpus, Document, documents, records_of
from caseback.stream.packing import rows_of

CLASSES = ("domain", "language", "skill", "concept", "sentiment")
NUMBERS = ("latitude", "longitude", "year")
Label = str | float


@dataclass(frozen=True)
class Labels:
    """Labels of the documents of every fold.

    Attributes
    ----------
    classes
        By column the classes, in the order of their names.
    codes
        By column and fold each document's class as a place in ``classes``; -1 for none.
    numbers
        By column and fold each document's number; NaN for none.
    """

    classes: dict[str, list[str]] = field(default_factory=dict)
    codes: dict[str, list[Int[np.ndarray, " document"]]] = field(default_factory=dict)
    numbers: dict[str, list[Float[np.ndarray, " document"]]] = field(default_factory=dict)

    @classmethod
    def of(cls, folds: Sequence[Sequence[Mapping[str, Label]]]) -> Labels:
        """From the labels of each document, fold by fold.

        Examples
        --------
        >>> labels = Labels.of([[{"domain": "prose"}, {}], [{"domain": "code", "year": 1905.0}]])
        >>> labels.classes["domain"], [codes.tolist() for codes in labels.codes["domain"]]
        (['code', 'prose'], [[1, -1], [0]])
        """
        labels = cls()
        for name in CLASSES:
            known = sorted({str(one[name]) for fold in folds for one in fold if name in one})
            if known:
                place = {value: i for i, value in enumerate(known)}
                labels.classes[name] = known
                labels.codes[name] = [
                    np.array([place.get(str(one.get(name)), -1) if name in one else -1 for one in fold])
                    for fold in folds
                ]
        for name in NUMBERS:
            values = [np.array([float(one.get(name, np.nan)) for one in fold]) for fold in folds]
            if any(np.isfinite(fold).any() for fold in values):
                labels.numbers[name] = values
        return labels

    def coded(self, name: str) -> tuple[list[str], list[Int[np.ndarray, " document"]]]:
        """A column's classes, and the documents' by fold.

        Raises
        ------
        SiteAbsent
            Where no document has one.
        """
        if name not in self.codes:
            raise SiteAbsent(f"no document has a label {name!r}: give records with a column of that name")
        return self.classes[name], self.codes[name]

    def numbered(self, name: str) -> list[Float[np.ndarray, " document"]]:
        """A column's numbers by fold.

        Raises
        ------
        SiteAbsent
            Where no document has one.
        """
        if name not in self.numbers:
            raise SiteAbsent(f"no document has a number {name!r}: give records with a column of that name")
        return self.numbers[name]


def labelled_documents(corpus: Corpus) -> Iterator[tuple[Document, dict[str, Label]]]:
    """Documents as ``caseback.stream.documents`` reads them, each with its labels.

    Examples
    --------
    >>> [(d.content, labels) for d, labels in labelled_documents([{"text": "the cat", "domain": "prose"}, "a"])]
    [('the cat', {'domain': 'prose'}), ('a', {})]
    """
    records = records_of(Path(corpus)) if isinstance(corpus, os.PathLike) else corpus
    if isinstance(records, str | bytes | Tokens) or not isinstance(records, Iterable):
        yield from ((document, {}) for document in documents(records))
        return
    held: dict[str, Label] = {}

    def without_labels() -> Iterator[Any]:
        nonlocal held
        for item in records:
            pair = isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], Mapping)
            held = _labels_of(item[1] if pair else item)
            yield (item[0], {k: v for k, v in item[1].items() if k not in held}) if pair else item

    for document in documents(without_labels()):
        yield document, held


def _labels_of(record: Any) -> dict[str, Label]:
    if not isinstance(record, Mapping):
        return {}
    classes = {name: str(record[name]) for name in CLASSES if isinstance(record.get(name), str | int)}
    numbers = {
        name: float(record[name])
        for name in NUMBERS
        if isinstance(record.get(name), int | float) and math.isfinite(record[name])
    }
    return {**classes, **numbers}


@dataclass(frozen=True)
class Folds:
    """Documents of either half, as ``collect`` takes them, and their labels.

    Attributes
    ----------
    documents
        By fold.
    labels
        Of these.
    """

    documents: tuple[list[Any], list[Any]]
    labels: Labels


def two_folds(corpus: Corpus, model: Model, n_tokens: int | None, length: int | None) -> Folds:
    """Documents in turn to either fold, those of a class among themselves, until both have so many tokens in all.

    Raises
    ------
    CasebackError
        For fewer than two documents.
    """
    folds: tuple[list[Any], list[Any]] = ([], [])
    labels: tuple[list[dict[str, Label]], list[dict[str, Label]]] = ([], [])
    turn: Counter[tuple[Label, ...]] = Counter()
    left = None if n_tokens is None else [n_tokens - n_tokens // 2, n_tokens // 2]
    given = labelled_documents(corpus)
    while (left is None or max(left) > 0) and (some := list(islice(given, 64))):
        for document, own in some:
            key = tuple(str(own.get(name)) for name in CLASSES)
            fold = turn[key] % 2
            turn[key] += 1
            if left is not None and left[fold] <= 0:
                continue
            content, size = (document, 0) if left is None else _as_far_as(document, model, left[fold], length)
            if left is not None:
                left[fold] -= size
            folds[fold].append(as_given(content))
            labels[fold].append(own)
    if not folds[1] or not folds[0]:
        raise CasebackError(
            f"a corpus of {len(folds[0]) + len(folds[1])} documents: expected two at least (of one class, where they "
            "have labels), since units are ranked on half of the documents and scored on the other half"
        )
    return Folds(folds, Labels.of(labels))


def _as_far_as(document: Document, model: Model, n_tokens: int, length: int | None) -> tuple[Document, int]:
    """A document to the end of the row that reaches so many tokens, and how many that are."""
    if isinstance(document.content, str) and 8 * n_tokens < len(document.content):
        # nobody needs a whole book cut into tokens for its first page; a token has more than eight characters seldom
        shorter = Document(document.content[: 64 * n_tokens], document.labels)
    else:
        shorter = document
    so_far, own = 0, 0
    for row in rows_of(model, [shorter], length=length):
        so_far += len(row.ids)
        own += len(row.ids) - row.front
        if so_far >= n_tokens:
            if isinstance(document.content, str):
                return _cut(shorter, model, own), so_far
            labels = {k: v if isinstance(v, int) else v[:own] for k, v in document.labels.items()}
            return Document(document.content[:own], labels), so_far
    return shorter, so_far


def _cut(document: Document, model: Model, n_tokens: int) -> Document:
    """The text of a document's first tokens."""
    assert isinstance(document.content, str) and model.tokenizer is not None
    ids = model.tokenizer(document.content, add_special_tokens=False)["input_ids"]
    if len(ids) <= n_tokens:
        return document
    return Document(model.tokenizer.decode(ids[:n_tokens], clean_up_tokenization_spaces=False), document.labels)


def as_given(document: Document) -> Any:
    """A document as ``collect`` takes it again."""
    return (document.content, dict(document.labels)) if document.labels else document.content
