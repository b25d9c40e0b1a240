"""Records of a data file, each with the line it begins on, so that a malformed one can be named or skipped.

Files are read line by line and arrays record by record: memory is bounded by what is kept, and ``limit`` stops early.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from caseback.errors import LoadError
from caseback.jobs import budget
from caseback.jobs.json_text import parse_json, parse_json_at
from caseback.jobs.text_file import open_file
from caseback.model.arguments import checked

T = TypeVar("T")
R = TypeVar("R")
Numbered = Iterator[tuple[int, R]]
"""Records, each with the line it begins on."""

MALFORMED = "malformed records"
SPACE = re.compile(r"\s*")


@checked
class Examples(list[T]):
    """What a file gave: a list, and what was left out.

    Attributes
    ----------
    dropped
        How many records were left out, by reason; ``align(pairs, model, dropped=pairs.dropped)`` adds to it.

    Examples
    --------
    >>> letters = Examples(["a", "b"], {"malformed records": 1})
    >>> len(letters), letters.dropped["malformed records"]
    (2, 1)
    """

    def __init__(self, items: Iterable[T] = (), dropped: dict[str, int] | None = None):
        super().__init__(items)
        self.dropped: Counter[str] = Counter(dropped or {})


class Malformed(Exception):
    """A record that breaks its format; ``line`` is given where the fault is not on the record's first line."""

    def __init__(self, expected: str, given: Any, line: int | None = None):
        shown = given if isinstance(given, _Words) else repr(given)
        self.line, self.about = line, f"expected {expected}, found {_short(shown)}"
        super().__init__(self.about)


class Unfit(Exception):
    """A record that is well formed but gives no example; the exception's text is the reason that is counted."""


class _Words(str):
    """Words that a message shows as they are, without quotes."""


NOTHING = _Words("nothing")


def examples(
    path: str | Path,
    records: Numbered[R],
    make: Callable[[R], T],
    *,
    skip_malformed: bool = False,
    limit: int | None = None,
) -> Examples[T]:
    """Make an example from every record.

    Parameters
    ----------
    path
        The file, for messages.
    records
        What a reader in this module gives; a ``Malformed`` may stand in a record's place.
    make
        From a record to an example; raises ``Malformed`` or ``Unfit``.
    skip_malformed
        Count malformed records instead of raising.
    limit
        Stop after so many examples.

    Raises
    ------
    LoadError
        For a malformed record, with file and line, or a file that gives no example.
    """
    if limit is not None and limit < 1:
        raise LoadError(f"limit {limit} of {path}: expected at least 1, or None for all")
    collected: Examples[T] = Examples()
    for line, record in records:
        try:
            if isinstance(record, Malformed):
                raise record
            collected.append(make(record))
        except Unfit as error:
            collected.dropped[str(error)] += 1
        except Malformed as error:
            if not skip_malformed:
                raise LoadError(
                    f"{path}, line {error.line or line}: {error.about}. Correct it, or leave such records out with "
                    "skip_malformed=True"
                ) from None
            collected.dropped[MALFORMED] += 1
        if limit is not None and len(collected) == limit:
            break
    if not collected:
        reasons = "; ".join(f"{count}: {reason}" for reason, count in collected.dropped.items()) or "it holds no record"
        raise LoadError(f"{path} gives no example ({reasons}): is it the format that you meant?")
    return collected


def lines(path: str | Path) -> Numbered[str]:
    """The lines of a UTF-8 file, with their ends, counted from 1.

    Raises
    ------
    LoadError
        For a missing file, a folder, or bytes that are not UTF-8.
    """
    with open_file(path) as file:
        # Bytes are cut at newlines first, so that a decoding error has an exact line.
        for number, raw in enumerate(file, 1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise LoadError(
                    f"{path}, line {number}: byte 0x{raw[error.start]:02x} at column {error.start + 1} is not UTF-8: "
                    "save the file as UTF-8"
                ) from None


def json_records(path: str | Path) -> Numbered[Any]:
    """The records of JSON lines or of one JSON array, whichever the file holds.

    Raises
    ------
    LoadError
        For an array that breaks off or is not JSON, after which no record can be found.
    """
    numbered = lines(path)
    for number, text in numbered:
        if text.strip():
            whole = chain([(number, text)], numbered)
            yield from _array(path, whole, number) if text.lstrip().startswith("[") else _json_lines(whole)


def json_under(path: str | Path, key: str) -> Numbered[Any]:
    """The records of the array under a key of a JSON object."""
    text = "".join(line for _, line in lines(path))
    match = re.search(rf'"{re.escape(key)}"\s*:\s*(?=\[)', text)
    if not match:
        raise LoadError(f"{path}: expected a list under {key!r}, found none: is it the format that you meant?")
    start = text.count("\n", 0, match.end()) + 1
    yield from _array(path, iter([(start, text[match.end() :])]), start, alone=False)


def json_value(path: str | Path) -> Any:
    """A whole JSON file.

    Raises
    ------
    LoadError
        If the file is not JSON, with the line.
    """
    text = "".join(line for _, line in lines(path))
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise LoadError(f"{path}, line {error.lineno}: expected JSON, but {error.msg}: correct the file") from None


def json_items(path: str | Path) -> Numbered[tuple[str, Any]]:
    """The keys and values of a JSON object, each key with its line."""
    value = json_value(path)
    if not isinstance(value, dict):
        raise LoadError(f"{path}: expected a JSON object, found {type(value).__name__}")
    text, at, line = "".join(text for _, text in lines(path)), 0, 1
    for key, item in value.items():
        spelled = (json.dumps(key, ensure_ascii=plain) for plain in (False, True))
        place = min((i for i in (text.find(s, at) for s in spelled) if i >= 0), default=at)
        at, line = place, line + text.count("\n", at, place)
        yield line, (key, item)


def csv_rows(path: str | Path, *needed: str) -> Numbered[dict[str, str]]:
    """The rows of a CSV file with a header, each by column.

    Raises
    ------
    LoadError
        If the header lacks a needed column.
    """
    numbered = lines(path)
    reader = csv.reader((text for _, text in numbered), strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise LoadError(f"{path}, line {reader.line_num}: expected a row of CSV, but {error}") from None
        if row is None:
            break
        if header is None:
            header = row
            lacking = [name for name in needed if name not in header]
            if lacking:
                raise LoadError(
                    f"{path}, line {line}: expected the columns {', '.join(needed)} in the first row; "
                    f"{', '.join(lacking)} not among {', '.join(header)}"
                )
        elif len(row) == len(header):
            yield line, dict(zip(header, row, strict=True))
        elif row:
            yield line, Malformed(f"{len(header)} fields", _Words(f"{len(row)}"))  # type: ignore[misc]


def value_at(record: Any, *keys: str, kind: type = str) -> Any:
    """What stands under nested keys of a record.

    Raises
    ------
    Malformed
        For an absent key or a value of another type.
    """
    names = {str: "a text", bool: "true or false", list: "a list", dict: "an object"}
    value = record
    for key in keys:
        if not isinstance(value, dict):
            raise Malformed(f"an object with {'.'.join(keys)!r}", value)
        value = value.get(key)
    if not isinstance(value, kind) or (isinstance(value, str) and not value.strip()):
        raise Malformed(f"{names[kind]} under {'.'.join(keys)!r}", NOTHING if value is None else value)
    return value


def choose(what: str, given: str, choices: Iterable[str]) -> str:
    """An option's value, checked.

    Raises
    ------
    LoadError
        For one that is not among the choices.
    """
    choices = tuple(choices)
    if given not in choices:
        raise LoadError(f"{what} {given!r} is unknown: expected one of {', '.join(choices)}")
    return given


def _json_lines(numbered: Numbered[str]) -> Numbered[Any]:
    for number, text in numbered:
        if text.strip():
            try:
                yield number, parse_json(text)
            except json.JSONDecodeError as error:
                yield number, Malformed(f"a JSON object (but {error.msg}, column {error.colno})", text.strip())


def _array(path: str | Path, numbered: Numbered[str], line: int, *, alone: bool = True) -> Numbered[Any]:
    """Records of the array that begins on ``line``, each decoded as soon as enough lines of it have been read."""
    text, at, chunk, due = "", 0, budget.limit("record_lines"), "["
    while True:
        start, at = at, _past_space(text, at)
        line += text.count("\n", start, at)
        sign, wrong = text[at : at + 1], f"it ends where {due} is due"
        if sign == "]" and "]" in due:
            rest = (text[at + 1 :] + "".join(t for _, t in numbered)).strip() if alone else ""
            if rest:
                raise LoadError(f"{path}, line {line}: expected nothing after the list, found {_short(repr(rest))}")
            return
        if sign and sign in due:
            at, due = at + 1, "a record or ]" if sign == "[" else "a record"
            continue
        if sign and "record" not in due:
            raise LoadError(f"{path}, line {line}: expected {due}, found {_short(repr(text[at : at + 80]))}")
        if sign:
            try:
                value, end = parse_json_at(text, at)
            except json.JSONDecodeError as error:
                wrong, line_of_it = error.msg, line + text.count("\n", at, error.pos)
            else:
                # A number may go on in lines that are not read yet, so a record is whole only if something follows it:
                # at least the closing ].
                if end < len(text):
                    yield line, value
                    line, at, chunk, due = line + text.count("\n", at, end), end, budget.limit("record_lines"), ", or ]"
                    continue
                wrong, line_of_it = "it ends where , or ] is due", line
        else:
            line_of_it = line
        more = "".join(t for _, t in islice(numbered, chunk))
        if not more:
            raise LoadError(
                f"{path}, line {line_of_it}: expected a list of JSON records, but {wrong}: correct the file"
            )
        # A record that spans many lines is decoded again each time more lines are read; doubling their number keeps
        # all tries together about as cheap as the last one.
        text, at, chunk = text[at:] + more, 0, 2 * chunk


def _past_space(text: str, at: int) -> int:
    space = SPACE.match(text, at)
    return space.end() if space else at


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"
