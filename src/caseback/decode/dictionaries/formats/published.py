"""Dictionaries that others publish, by model: a table in ``published.json`` beside this file.

Each row is one repository of the hub: ``release``, ``repository``, ``model``, ``format`` (a name of ``FORMATS``),
``sites``, ``widths`` (features; empty where they vary), and an ``example`` of the subfolder that ``load`` takes.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from caseback.jobs.json_text import parse_json
from caseback.model.arguments import checked


@checked
def published(model: str | None = None) -> list[dict[str, object]]:
    """The releases that are known of, all or a model's.

    Parameters
    ----------
    model
        A model's name or hub id, or a part of it (``"gemma-2"``); upper and lower case are one.

    Returns
    -------
    One mapping a release, by model. The table is no list of all there are.

    Examples
    --------
    >>> [row["repository"] for row in published("gemma-2-27b")]
    ['google/gemma-scope-27b-pt-res']
    """
    rows = [dict(row) for row in _table()]
    return rows if model is None else [row for row in rows if model.lower() in str(row["model"]).lower()]


@cache
def _table() -> tuple[dict[str, object], ...]:
    text = (files("caseback.decode.dictionaries.formats") / "published.json").read_text(encoding="utf-8")
    return tuple(parse_json(text))
