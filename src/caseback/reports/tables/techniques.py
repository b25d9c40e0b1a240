"""Techniques as rows of plain data: where each stands in the Primer, what it is for, what it costs, whose it is."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from caseback.model import registry
from caseback.model.arguments import checked
from caseback.model.registry import Technique

__all__ = ["technique_row", "technique_rows"]


@checked
def technique_rows(role: str | None = None, words: Sequence[str] = ()) -> list[dict[str, Any]]:
    """All techniques, or those of one role, or those that have some words, by entry.

    Parameters
    ----------
    role
        One of ``ROLES``.
    words
        What the name, entry, role, citation or summary must have, all of them, whatever their case and ending. A
        number such as 3.2 stands for the entries below it.

    Raises
    ------
    RegistryError
        For an unknown role.

    Examples
    --------
    >>> [row["name"] for row in technique_rows("context mixing")][:1]
    ['localize.inputs.attention_maps']
    >>> [row["name"] for row in technique_rows(words=["3.2", "patching", "illusion"])]
    ['localize.components.subspace_illusion']
    """
    return rows_with([technique_row(technique) for technique in registry.techniques()], role, words)


def rows_with(rows: Sequence[dict[str, Any]], role: str | None, words: Sequence[str]) -> list[dict[str, Any]]:
    """Those rows of all techniques that play a role and have some words, as ``technique_rows`` takes them."""
    if role is not None:
        registry.expect_role(role)
        rows = [row for row in rows if row["role"] == role]
    return [row for row in rows if all(_has(row, word) for word in words)]


@checked
def technique_row(technique: Technique) -> dict[str, Any]:
    """One technique: name, entry, role, citation, cost, summary, and the example of its docstring."""
    return {
        "name": technique.name,
        "entry": list(technique.entry),
        "role": technique.role,
        "citation": technique.citation,
        "cost": technique.cost,
        "summary": technique.summary,
        "example": _example(technique),
    }


def _has(row: Mapping[str, Any], word: str) -> bool:
    if word[:1].isdigit() or word.startswith("B."):
        return any(f"{entry}.".startswith(f"{word.removesuffix('.')}.") for entry in row["entry"])
    stem = word.lower().removesuffix("s").removesuffix("ing")  # patching finds patch
    return stem in " ".join(str(row[key]) for key in ("name", "role", "citation", "summary")).lower()


def _example(technique: Technique) -> str:
    _, _, example = (inspect.getdoc(technique.function) or "").partition("Examples\n--------\n")
    return example.strip()
