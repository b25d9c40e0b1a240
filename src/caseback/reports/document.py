"""What all documents are, and what is checked of one before anything is drawn.

A document may come from disk or from another program, so whoever draws one asks for its kind and version first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from caseback.errors import CasebackError

__all__ = ["check_finite", "expect_kind"]


def expect_kind(document: Any, kind: str, version: int, what: str, made_by: str) -> None:
    """Refuse what is no document of a kind, and one of another version.

    Parameters
    ----------
    document
        What is to be drawn.
    kind, version
        What it must say that it is.
    what, made_by
        How a message calls such a document, and the function that makes one.

    Raises
    ------
    CasebackError
        With what was found and what was expected.

    Examples
    --------
    >>> expect_kind(["a"], "caseback.circuit", 1, "a circuit document", "circuit_document")
    Traceback (most recent call last):
    caseback.errors.CasebackError: not a circuit document: kind is 'list', expected 'caseback.circuit'; ...
    """
    found = document.get("kind") if isinstance(document, Mapping) else type(document).__name__
    if found != kind:
        raise CasebackError(
            f"not {what}: kind is {found!r}, expected {kind!r}; pass what {made_by} returned or what was saved from it"
        )
    if document.get("version") != version:
        raise CasebackError(
            f"{what} of version {document.get('version')!r}; this caseback draws version {version}: make it again with "
            "the installed version"
        )


def check_finite(value: Any, place: str) -> None:
    """Refuse what is no plain JSON data, or a number in it that is not finite, naming the place."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise CasebackError(
                f"{place} is {value}, expected a finite number; "
                "if the model ran in half precision, explain it in float32"
            )
    elif isinstance(value, (list, tuple)):
        # A flat list of numbers is tested at once, since patterns of long prompts hold millions: one number
        # that is not finite leaves no finite sum. (A sum that overflows only sends the list on.)
        if set(map(type, value)) == {float} and math.isfinite(sum(value)):
            return
        for index, item in enumerate(value):
            check_finite(item, f"{place}[{index}]")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            check_finite(item, f"{place}.{key}")
    elif value is not None and not isinstance(value, (str, int, bool)):
        raise CasebackError(f"{place} is a {type(value).__name__}, expected plain JSON data; convert it first")
