"""JSON as files hold it: whatever cannot be read is one error, also what Python's reader gives up on.

Nesting deeper than Python's stack ends in a ``RecursionError`` there, a number of thousands of digits in a bare
``ValueError``; here both are a ``JSONDecodeError``, as any other text that is not JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from caseback.errors import CasebackError, LoadError

_DECODER = json.JSONDecoder()


def parse_json(text: str) -> Any:
    """The value that a text holds.

    Raises
    ------
    json.JSONDecodeError
        For a text that is not JSON, or that nobody can read.

    Examples
    --------
    >>> parse_json('{"rows": [1, 2]}')
    {'rows': [1, 2]}
    >>> parse_json("[" * 100_000)
    Traceback (most recent call last):
    json.decoder.JSONDecodeError: it is nested too deeply: line 1 column 1 (char 0)
    """
    return _readable(json.loads, text, 0)


def parse_json_at(text: str, start: int) -> tuple[Any, int]:
    """The value that begins at a place in a text, and where it ends."""
    return _readable(lambda whole: _DECODER.raw_decode(whole, start), text, start)


def finite_or_none(data: Any) -> Any:
    """Plain data with None for numbers that are not finite, which JSON cannot write.

    Examples
    --------
    >>> finite_or_none({"mean": (1.0, float("nan")), "layers": 2})
    {'mean': [1.0, None], 'layers': 2}
    """
    if isinstance(data, Mapping):
        return {key: finite_or_none(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite_or_none(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


@contextmanager
def expect_form(refusal: str) -> Iterator[None]:
    """Refuse data that are not of the form that the block reads.

    Parameters
    ----------
    refusal
        What they are not, and where they are from.

    Raises
    ------
    LoadError
        In place of what Python says where a key is missing or a value of another type or size.

    Examples
    --------
    >>> with expect_form("a.json is no list of graphs"):
    ...     {"graph": []}["graphs"]
    Traceback (most recent call last):
    caseback.errors.LoadError: a.json is no list of graphs: KeyError('graphs')
    """
    try:
        yield
    except CasebackError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        raise LoadError(f"{refusal}: {shortened(repr(error))}") from None


def shortened(text: str, most: int = 160) -> str:
    """A text on one line, without its middle where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"


def _readable(parse: Any, text: str, start: int) -> Any:
    try:
        return parse(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("it is nested too deeply", text, start) from None
    except ValueError as error:  # of an integer that is too long
        raise json.JSONDecodeError(str(error).partition(";")[0], text, start) from None
