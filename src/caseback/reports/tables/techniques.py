"""Techniques as rows of plain data: where each stands in the Primer, what it is for, what it costs, whose it is."""

from __future__ import annotations

from typing import Any

from caseback.model import registry
from caseback.model.arguments import checked
from caseback.model.registry import Technique

__all__ = ["technique_row", "technique_rows"]


@checked
def technique_rows(role: str | None = None) -> list[dict[str, Any]]:
    """All techniques, or those of one role, by entry.

    Raises
    ------
    RegistryError
        For an unknown role.

    Examples
    --------
    >>> [row["name"] for row in technique_rows("context mixing")][:1]
    ['localize.inputs.attention_maps']
    """
    listed = registry.techniques() if role is None else registry.with_role(role)
    return [technique_row(technique) for technique in listed]


@checked
def technique_row(technique: Technique) -> dict[str, Any]:
    """One technique: name, entry, role, citation, cost, summary."""
    return {
        "name": technique.name,
        "entry": list(technique.entry),
        "role": technique.role,
        "citation": technique.citation,
        "cost": technique.cost,
        "summary": technique.summary,
    }
