"""The form of JSON data: which keys it has, and of which kind each value is.

    str, bool, dict, list, object    a value of that kind; ``object`` is any
    int                              a count: a whole number from 0
    [form]                           a list, each of that form
    {"key": form, ...}               an object with these keys at least; one with ``?`` behind it may be left out

A digest says that a file is as it was written, not that what wrote it was this program.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from caseback.errors import LoadError
from caseback.jobs.safe_files import expect_whole, read_json

_WORDS = {
    str: "a text",
    bool: "true or false",
    int: "a whole number from 0",
    dict: "an object",
    list: "a list",
    object: "anything",
}


def expect_form(data: Any, form: Any, path: str | Path) -> None:
    """Refuse data of another form, by the place where it differs first.

    Raises
    ------
    LoadError

    Examples
    --------
    >>> expect_form({"kind": "squares", "sizes": [1, "2"]}, {"kind": str, "sizes": [int]}, "job.json")
    Traceback (most recent call last):
    caseback.errors.LoadError: 'job.json' cannot be read: sizes/1 is '2', expected a whole number from 0
    """
    if (wrong := _difference(data, form, "")) is not None:
        raise LoadError(f"{str(path)!r} cannot be read: {wrong}")


def read_record(path: str | Path, version: str, form: Any, noun: str) -> dict[str, Any]:
    """A record of JSON that says what it is, ``version``, with a digest of its content, and has a form.

    Parameters
    ----------
    path
        The file.
    version, form
        What its ``format`` must be, and the form of the whole.
    noun
        What messages call what it is of.

    Raises
    ------
    LoadError
        For a file of another version, a changed one, or one of another form.
    """
    record = read_json(path)
    if record.get("format") != version:
        raise LoadError(f"{str(path)!r} is no {noun} of this version: expected {version!r}")
    expect_whole(record, path)
    expect_form(record, form, path)
    return record


def _difference(data: Any, form: Any, place: str) -> str | None:
    kind = type(form) if isinstance(form, dict | list) else form
    if not isinstance(data, kind) or (kind is int and (isinstance(data, bool) or not 0 <= data <= sys.maxsize)):
        return f"{place.lstrip('/') or 'it'} is {repr(data)[:60]}, expected {_WORDS[kind]}"
    inside: Any = []
    if isinstance(form, dict):
        if absent := [name for name in form if not name.endswith("?") and name not in data]:
            return f"{place.lstrip('/') or 'it'} has no {absent[0]!r}"
        known = {name.removesuffix("?"): one for name, one in form.items()}
        inside = ((data[name], one, f"{place}/{name}") for name, one in known.items() if name in data)
    elif isinstance(form, list):
        inside = ((one, form[0], f"{place}/{number}") for number, one in enumerate(data))
    return next((wrong for one in inside if (wrong := _difference(*one)) is not None), None)
