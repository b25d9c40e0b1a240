"""Prompts with their answers as lines of JSON: one object a line, under the names that people give these fields."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from caseback.errors import CasebackError
from caseback.jobs.json_text import parse_json
from caseback.model.arguments import checked

__all__ = ["records_of"]

MISSPELT = 0.85
"""How like a field's name another must be to be taken for it, misspelt: a letter or so."""
PROMPT, TARGET, FOIL = ("prompt", "clean", "text"), ("target", "answer"), ("foil",)


@checked
def records_of(lines: str) -> list[dict[str, Any]]:
    """Lines of JSON as records of prompt, target, foil and corrupt (empty where there is none), and slices.

    What else is short text, a number or a truth value is a slice, as text.

    Raises
    ------
    CasebackError
        For no line, or one that is no object with a prompt and a target; the message says which, and what it lacks.
        Also for a field whose name is one of these but for a letter or so: it would be taken for a slice.

    Examples
    --------
    >>> records_of('{"text": "Mary went to the", "answer": " store", "kind": "place"}')
    [{'corrupt': '', 'prompt': 'Mary went to the', 'target': ' store', 'foil': '', 'slices': {'kind': 'place'}}]
    """
    records = [_record(line, number) for number, line in enumerate(lines.splitlines(), 1) if line.strip()]
    if not records:
        raise CasebackError("no row is given: expected lines of JSON, each with a prompt and a target")
    return records


def _record(line: str, number: int) -> dict[str, Any]:
    try:
        data = parse_json(line)
    except ValueError as error:
        raise CasebackError(f"line {number} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise CasebackError(f"line {number} is no object: expected fields prompt, target and perhaps foil")
    row: dict[str, Any] = {"corrupt": ""}
    for field, names, needed in (("prompt", PROMPT, True), ("target", TARGET, True), ("foil", FOIL, False)):
        value = next((data[name] for name in names if name in data), "")
        if not isinstance(value, str) or (needed and not value):
            raise CasebackError(f"line {number} has no text as {' or '.join(names)}")
        row[field] = value
    if isinstance(data.get("corrupt"), str):
        row["corrupt"] = data["corrupt"]
    known = {*PROMPT, *TARGET, *FOIL, "corrupt"}
    for key in data.keys() - known:
        if near := get_close_matches(key, known, 1, MISSPELT):
            raise CasebackError(f"line {number} has a field {key!r}: did you mean {near[0]!r}?")
    plain = {
        key: str(value) for key, value in data.items() if key not in known and isinstance(value, str | int | float)
    }
    row["slices"] = {key: text for key, text in plain.items() if len(text) <= 80}
    return row
