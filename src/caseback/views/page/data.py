"""Documents as a page's script reads them: smaller, and with visible forms of the tokens' text.

Nothing that a page shows is lost: token texts get their visible form beside them, so that scripts need no second copy
of those rules; an attention pattern of n² numbers becomes 16-bit integers, round(65535 · attention), gzipped, in
base64; floats keep six significant digits; a long column of numbers becomes bytes, `column`.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from caseback.errors import CasebackError
from caseback.reports.document import checked, drawn_from
from caseback.reports.tokens_text import visible

__all__ = ["column", "embedded", "embedded_json", "packed", "rounded", "with_visible"]

_DIGITS = 6
_PATTERN_SCALE = 65535
_SMALL = 16 << 10  # characters of JSON that are not worth zipping


@checked
def embedded_json(data: Any) -> str:
    r"""JSON that can stand inside a script element of any page.

    ASCII only, with ``<``, ``>`` and ``&`` as escapes, so that no text in it can end the element, open a
    comment or be read as an entity; ``JSON.parse`` gives the same data back.

    Examples
    --------
    >>> embedded_json({"text": "</script>"})
    '{"text":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@checked
def embedded(data: Any) -> str:
    """The element of a page that its scripts read: JSON, or JSON gzipped in base64 where it is long.

    Examples
    --------
    >>> embedded({"a": 1})
    '<script type="application/json" id="document">{"a":1}</script>'
    >>> len(embedded(["once more"] * 10_000)) < 1_000
    True
    """
    kind, text = "application/json", embedded_json(data)
    if len(text) > _SMALL:
        kind, text = "application/gzip", _zipped(text.encode("ascii"))
    return f'<script type="{kind}" id="document">{text}</script>'


@checked
@drawn_from("a token", "explain")
def with_visible(token: Mapping[str, Any]) -> dict[str, Any]:
    """A token with its visible form beside its text."""
    return {**token, "visible": visible(token["text"])}


@checked
def packed(pattern: np.ndarray | None) -> dict[str, Any] | None:
    """An attention pattern as 16-bit integers, gzipped, in base64; None stays None."""
    if pattern is None:
        return None
    if np.ndim(pattern) == 0:
        raise CasebackError(f"the attention pattern is {pattern!r}: expected rows of numbers")
    values = np.rint(np.clip(np.asarray(pattern, dtype=np.float64), 0, 1) * _PATTERN_SCALE).astype("<u2")
    return {"n": values.shape[0], "scale": _PATTERN_SCALE, "data": _zipped(values.tobytes())}


@checked
def column(values: Sequence[float], *, digits: int | None = None, per: int = 1) -> Any:
    """A column of numbers as bytes, of which its script makes the same numbers.

    Integers are written as their differences where that is smaller, in as few bytes as hold them. Floats are float32
    whose last bits are zero, as many as can be while rounding to the digits gives them back: about 22 - d log2 10 of d
    digits. All first bytes stand before all second bytes, so that bytes that are alike stand together, gzipped,
    in base64.

    Parameters
    ----------
    values
        [rows], finite: floats with ``digits``; else what is written as integers.
    digits
        Significant decimal digits, at most 6; None for integers.
    per
        Without ``digits``: the integers are ``round(per * value)``.

    Returns
    -------
    dict or list
        ``column``, the kind of number, ``data``, and ``digits``, or ``per`` and ``differences``; the rounded values
        where bytes would not give them back.

    Examples
    --------
    >>> column([3, 4, 5, 6])["column"]
    'i1'
    >>> column([1e300, 0.5], digits=6)
    [1e+300, 0.5]
    """
    if digits is not None:
        return _floats([float(f"{x:.{digits}g}") for x in values], digits)
    whole = np.asarray([round(per * x) for x in values], dtype=np.int64)
    ways = {False: whole, True: np.diff(whole, prepend=0)}
    kinds = {way: _smallest(numbers) for way, numbers in ways.items()}
    if None in kinds.values():
        return [x / per for x in whole.tolist()] if per != 1 else whole.tolist()
    zipped = {way: _planes(numbers.astype(f"<{kinds[way]}")) for way, numbers in ways.items()}
    way = min(zipped, key=lambda way: len(zipped[way]))
    return {"column": kinds[way], "per": per, "differences": way, "data": zipped[way]}


def _floats(given: list[float], digits: int) -> Any:
    with np.errstate(over="ignore"):
        bits = np.asarray(given, dtype="<f4").view("<u4").astype(np.int64)
    for dropped in range(23 - math.ceil(digits * math.log2(10)), -1, -1):
        shorter = ((bits + (1 << dropped >> 1)) >> dropped << dropped).astype("<u4").view("<f4")
        if [float(f"{x:.{digits}g}") for x in shorter.astype(np.float64).tolist()] == given:
            return {"column": "f4", "digits": digits, "data": _planes(shorter)}
    return given


@checked
def rounded(value: Any) -> Any:
    """Plain data whose floats keep six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return value


def _smallest(numbers: np.ndarray) -> str | None:
    """The smallest kind of integer that holds these; None where four bytes do not."""
    kinds = ("i1", "i2", "i4")
    return next((kind for kind in kinds if np.array_equal(numbers.astype(kind), numbers)), None)


def _planes(numbers: np.ndarray) -> str:
    return _zipped(numbers.view(np.uint8).reshape(-1, numbers.itemsize).T.tobytes())


def _zipped(raw: bytes) -> str:
    # no time stamp, so that the same document gives the same page, byte for byte
    return base64.b64encode(gzip.compress(raw, compresslevel=9, mtime=0)).decode("ascii")
