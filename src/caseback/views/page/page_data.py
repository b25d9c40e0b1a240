"""The explanation document as the report's page reads it: smaller, and with token text already made visible.

Three changes, none of which loses anything that the page shows:
token texts get their visible form (``tokens_text.visible``), so the page has no second copy of those rules;
the lens's repeated texts become indices into one list; an attention pattern of n² numbers becomes 16-bit
integers (round(65535 · attention)), gzipped, in base64. Floats keep six significant digits.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from caseback.reports.tokens_text import visible

__all__ = ["embedded_json", "packed", "page_data", "rounded", "with_visible"]

_DIGITS = 6
_PATTERN_SCALE = 65535


def page_data(explanation: Mapping[str, Any]) -> dict[str, Any]:
    """The document for the page, as plain data; the explanation itself is left as it was.

    Parameters
    ----------
    explanation
        A checked explanation document (``document.check_explanation``).

    Returns
    -------
    dict
        The same keys, with ``visible`` beside every token's ``text``, ``lens.texts`` (distinct visible texts)
        and ``lens.top`` (layers, tokens, k indices into them) instead of ``lens.top_text``, and each head's
        ``pattern`` as ``{"n": int, "scale": 65535, "data": base64 of gzip of little-endian uint16}`` or None.

    Examples
    --------
    ::

        page_data(explanation)["target"]    # {'id': 5335, 'text': ' Mary', 'visible': '␣Mary'}
    """
    texts: dict[str, int] = {}
    lens = {key: value for key, value in explanation["lens"].items() if key != "top_text"}
    lens["top"] = [
        [[texts.setdefault(visible(text), len(texts)) for text in cell] for cell in row]
        for row in explanation["lens"]["top_text"]
    ]
    lens["texts"] = list(texts)
    page = dict(explanation)
    page["tokens"] = [with_visible(token) for token in explanation["tokens"]]
    page["target"] = with_visible(explanation["target"])
    page["foil"] = with_visible(explanation["foil"])
    page["predictions"] = [with_visible(token) for token in explanation["predictions"]]
    page["lens"] = lens
    if page["patching"] is not None:
        page["patching"] = {
            **page["patching"],
            "corrupt": [with_visible(token) for token in page["patching"]["corrupt"]],
        }
    page["heads"] = [{**head, "pattern": packed(head.get("pattern"))} for head in explanation["heads"]]
    return rounded(page)


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


def with_visible(token: Mapping[str, Any]) -> dict[str, Any]:
    """A token with the text by which a reader can see it."""
    return {**token, "visible": visible(token["text"])}


def packed(pattern: Any) -> dict[str, Any] | None:
    """An attention pattern as 16-bit integers, gzipped, in base64; None stays None."""
    if pattern is None:
        return None
    values = np.rint(np.clip(np.asarray(pattern, dtype=np.float64), 0, 1) * _PATTERN_SCALE).astype("<u2")
    # No time stamp: the same explanation gives the same page, byte for byte.
    data = gzip.compress(values.tobytes(), compresslevel=6, mtime=0)
    return {"n": values.shape[0], "scale": _PATTERN_SCALE, "data": base64.b64encode(data).decode("ascii")}


def rounded(value: Any) -> Any:
    """Plain data whose floats keep six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return value
