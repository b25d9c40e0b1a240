"""Texts with a label each, from a file: what probes, erasers and steering directions are fitted to.

A file is JSON lines, a JSON list of records, Parquet, or a table of comma- or tab-separated values with a header; its
columns have names, of which one is the text, one the label, and one may say which texts belong together.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caseback.errors import LoadError, did_you_mean
from caseback.jobs.json_text import shortened
from caseback.jobs.text_file import read_text
from caseback.model.arguments import checked
from caseback.stream.documents import LINE_SUFFIXES, records_of

SEPARATORS = {".csv": ",", ".tsv": "\t"}
RECORDS = (*LINE_SUFFIXES, ".json", ".parquet")


@dataclass(frozen=True)
class LabeledTexts:
    """Texts in the order of the file.

    Attributes
    ----------
    texts
        None is empty.
    labels
        A label for each: text, a number or a truth value; from ``.csv`` and ``.tsv`` always text.
    groups
        What each text belongs to, where a column says so: its document, template or author.
    """

    texts: list[str]
    labels: list[Any]
    groups: list[Any] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        counts = {label: self.labels.count(label) for label in dict.fromkeys(self.labels)}
        shown = ", ".join(f"{label!r} {n}" for label, n in list(counts.items())[:4])
        more = f", and {len(counts) - 4} more labels" if len(counts) > 4 else ""
        return f"LabeledTexts({len(self)} texts; {shown}{more})"


@checked
def labeled_texts(path: str | Path, text: str = "text", label: str = "label", group: str | None = None) -> LabeledTexts:
    r"""Read texts with labels.

    Parameters
    ----------
    path
        A file named ``.jsonl``, ``.ndjson``, ``.json``, ``.parquet``, ``.csv`` or ``.tsv``.
    text
        The column of texts.
    label
        The column of labels.
    group
        The column that says which texts belong together, so that none of them is trained on and tested on.

    Returns
    -------
    LabeledTexts
        ``texts``, ``labels`` and ``groups``.

    Raises
    ------
    LoadError
        For a file that cannot be read or has no rows, a column that it lacks, and a row whose text is empty or whose
        label is missing.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "reviews.csv"
    ...     _ = file.write_text("text,label\nI loved it.,good\nNever again.,bad\n")
    ...     labeled_texts(file)
    LabeledTexts(2 texts; 'good' 1, 'bad' 1)
    """
    columns = [text, label] if group is None else [text, label, group]
    rows = [_row(record, where, columns) for where, record in table_records(Path(path))]
    if not rows:
        raise LoadError(f"{str(path)!r} has no rows: expected texts with labels")
    texts, labels, *groups = ([row[i] for row in rows] for i in range(len(columns)))
    return LabeledTexts(texts, labels, groups[0] if groups else None)


def table_records(path: Path) -> Iterator[tuple[str, Any]]:
    """The records of a file, each with where it stands in words."""
    suffix = path.suffix.lower()
    if suffix in SEPARATORS:
        yield from _separated(path, SEPARATORS[suffix])
    elif suffix in RECORDS:
        yield from ((f"{str(path)!r}, record {i}", record) for i, record in enumerate(records_of(path), 1))
    else:
        raise LoadError(
            f"{str(path)!r} is of no kind that holds texts with labels: expected a file named "
            f"{', '.join([*RECORDS, *SEPARATORS])}"
        )


def _separated(path: Path, separator: str) -> Iterator[tuple[str, Any]]:
    reader = csv.reader(io.StringIO(read_text(path).removeprefix("\ufeff"), newline=""), delimiter=separator)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise LoadError(f"{str(path)!r} has two columns {twice!r}: give each a name of its own")
        for row in reader:
            where = f"{str(path)!r}, line {reader.line_num}"
            if len(row) > len(header):
                raise LoadError(
                    f"{where}, has {len(row)} values for {len(header)} columns: quote what has {separator!r}"
                )
            if row:
                yield where, dict(zip(header, row, strict=False))
    except csv.Error as error:
        raise LoadError(f"{str(path)!r}, line {reader.line_num}, cannot be read: {error}") from None


def _row(record: Any, where: str, columns: list[str]) -> list[Any]:
    """The values of one record's columns."""
    if not isinstance(record, Mapping):
        shown = shortened(repr(record), 60)
        raise LoadError(f"{where}, is {shown}: expected a record with the columns {' and '.join(columns)}")
    for column in columns:
        if column not in record:
            raise LoadError(f"{where}, has no column {column!r}. {did_you_mean(column, [str(k) for k in record])}")
    content, *others = (record[column] for column in columns)
    if not isinstance(content, str) or not content.strip():
        shown = "empty" if content == "" or content is None else shortened(repr(content), 60)
        raise LoadError(f"{where}: the text under {columns[0]!r} is {shown}, expected words")
    for column, value in zip(columns[1:], others, strict=True):
        if not isinstance(value, str | int | float) or value == "" or (isinstance(value, float) and math.isnan(value)):
            shown = "missing" if value is None or value == "" else shortened(repr(value), 60)
            raise LoadError(f"{where}: the value under {column!r} is {shown}, expected text or a number")
    return [content, *others]
