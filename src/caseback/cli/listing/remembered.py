"""Lists that follow from the package's code alone, kept from call to call: making one imports all of the package.

A list is taken from its file as long as every source file is as it was, by size and time of change, and no other
package adds to it. ``CASEBACK_CACHE`` names the folder of the files, by default ``~/.cache/caseback``; empty, nothing
is kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import caseback
from caseback.errors import CasebackError
from caseback.jobs.json_text import parse_json
from caseback.jobs.whole_file import whole_file
from caseback.plugins import offered


def remembered(name: str, make: Callable[[], list[Any]]) -> list[Any]:
    """The list of this name, from its file where that is of this very code, else as it is made.

    Parameters
    ----------
    name
        What the file is called.
    make
        Makes the list, of plain data.

    Examples
    --------
    >>> remembered("an example", lambda: [3])
    [3]
    """
    folder = os.environ.get("CASEBACK_CACHE", os.path.join(os.path.expanduser("~"), ".cache", "caseback"))
    if not folder or offered("techniques"):
        return make()
    path, code = Path(folder, f"{name}.json"), _code()
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = parse_json(path.read_text(encoding="utf-8"))
        if stored["code"] == code and isinstance(stored["rows"], list):
            return stored["rows"]
    rows = make()
    with suppress(OSError, CasebackError):  # a home that cannot be written to
        os.makedirs(folder, exist_ok=True)
        with whole_file(path) as draft:
            draft.write_text(json.dumps({"code": code, "rows": rows}), encoding="utf-8")
    return rows


def _code() -> list[list[Any]]:
    """Each source file of the package with its size and time of change."""
    files = []
    for root in caseback.__path__:
        for folder, _, names in os.walk(root):
            paths = [os.path.join(folder, name) for name in names if name.endswith(".py")]
            files += [[path, (about := os.stat(path)).st_size, about.st_mtime_ns] for path in paths]
    return sorted(files)
