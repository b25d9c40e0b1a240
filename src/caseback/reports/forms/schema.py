"""The form of what commands print with ``--json``, in files beside this one, and as JSON schemas (draft 2020-12).

``KIND.json`` has the sections of a kind of document, ``result.json`` a labeled result, and
``lists.json`` what commands print that is neither, by command. A form is itself JSON:

    "number", "integer", "string", "boolean", "null", "any"     a value of that kind; "number|null" is either
    [form]                                                      a list, each of that form
    {"*": form}                                                 an object whose keys are data, each value of that form
    {"key": form, "other?": form}                               an object with these keys at least; ``other`` may miss
    {"|": [form, form]}                                         one of these

An object may have other keys too: those come within a version, and a change of what is there makes a new one.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from caseback.errors import CasebackError
from caseback.jobs.json_text import parse_json
from caseback.model.argument_kinds import JUDGED_BY_THE_FUNCTION
from caseback.model.arguments import checked

__all__ = ["form_of", "json_schema", "list_schemas", "result_schema"]

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_TYPES = ("number", "integer", "string", "boolean", "null")
Form = Annotated[Any, JUDGED_BY_THE_FUNCTION]


@checked
def json_schema(form: Form) -> Any:
    """A form as a JSON schema.

    Raises
    ------
    CasebackError
        For what is no form.

    Examples
    --------
    >>> json_schema({"tokens": ["string"], "share?": "number|null"})["required"]
    ['tokens']
    >>> json_schema({"*": "number"})
    {'type': 'object', 'additionalProperties': {'type': 'number'}}
    """
    match form:
        case "any":
            return True
        case str() if set(form.split("|")) <= set(_TYPES):
            kinds = form.split("|")
            return {"type": kinds[0] if len(kinds) == 1 else kinds}
        case [each]:
            return {"type": "array", "items": json_schema(each)}
        case {"*": each}:
            return {"type": "object", "additionalProperties": json_schema(each)}
        case {"|": ways}:
            return {"anyOf": [json_schema(way) for way in ways]}
        case dict():
            return {
                "type": "object",
                "properties": {name.removesuffix("?"): json_schema(each) for name, each in form.items()},
                "required": [name for name in form if not name.endswith("?")],
            }
    raise CasebackError(
        f"{form!r} is no form: expected one of {', '.join(_TYPES)} or any, [form], or an object of forms"
    )


@cache
def form_of(name: str) -> Any:
    """The form that this package has under a name, such as ``"graph"``; None where it has none.

    Examples
    --------
    >>> form_of("result")["dims"], form_of("nothing of this name")
    ({'*': 'integer'}, None)
    """
    file = Path(__file__).parent / f"{name}.json"
    return parse_json(file.read_text(encoding="utf-8")) if os.path.isfile(file) else None


def result_schema() -> dict[str, Any]:
    """The schema of a labeled result, as ``result_json`` gives it.

    Examples
    --------
    >>> sorted(result_schema()["required"])
    ['attrs', 'coords', 'data_vars', 'dims']
    """
    return {"$schema": DRAFT, "title": "a labeled result", **json_schema(form_of("result"))}


def list_schemas() -> dict[str, dict[str, Any]]:
    """The schemas of what commands print that is no document and no labeled result, by command.

    Examples
    --------
    >>> list_schemas()["jobs"]["type"]
    'array'
    """
    return {
        name: {"$schema": DRAFT, "title": f"what caseback {name} prints", **json_schema(form)}
        for name, form in form_of("lists").items()
    }
