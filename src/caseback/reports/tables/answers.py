"""What is asked of each of many prompts: its target and foil, and the names that a task gives to its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caseback.errors import CasebackError
from caseback.tasks.prompts import Prompts


def answers_of(
    prompts: Prompts | None, count: int, targets: Sequence[Any] | None, foils: Sequence[Any] | None
) -> tuple[list[Any], list[Any]]:
    """The target and the foil of each prompt: those given, a task's first right and first wrong one, or None.

    Raises
    ------
    CasebackError
        For as many as there are no prompts.
    """
    if prompts is not None:
        targets = [ids[0] for ids in prompts.target] if targets is None else targets
        foils = [ids[0] if ids else None for ids in prompts.foil] if foils is None else foils
    return as_many(targets, count, "targets"), as_many(foils, count, "foils")


def as_many(values: Sequence[Any] | None, count: int, what: str) -> list[Any]:
    """As many values as there are prompts; None for each where there are none.

    Raises
    ------
    CasebackError
        For another number.
    """
    if values is None:
        return [None] * count
    if isinstance(values, str) or len(values) != count:
        raise CasebackError(f"{what}: expected one for each of the {count} prompts")
    return list(values)


def places_of(prompts: Prompts | None, b: int) -> dict[str, tuple[int, int]]:
    """The named words of a task's prompt: first and last position."""
    if prompts is None:
        return {}
    return {name: (int(span[b, 0]), int(span[b, 1])) for name, span in prompts.spans.items()}
