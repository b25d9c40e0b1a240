"""Documents as a page's script reads them: smaller, and with visible forms of the tokens' text.

Nothing that a page shows is lost: token texts get their visible form beside them, so that scripts need no second copy
of those rules; an attention pattern of n² numbers becomes 16-bit integers, round(65535 · attention), gzipped, in
base64; floats keep six significant digits.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from caseback.errors import CasebackError
from caseback.reports.document import checked, drawn_from
from caseback.reports.tokens_text import visible

__all__ = ["embedded", "embedded_json", "packed", "rounded", "with_visible"]

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
def rounded(value: Any) -> Any:
    """Plain data whose floats keep six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return value


def _zipped(raw: bytes) -> str:
    # no time stamp, so that the same document gives the same page, byte for byte
    return base64.b64encode(gzip.compress(raw, compresslevel=9, mtime=0)).decode("ascii")
