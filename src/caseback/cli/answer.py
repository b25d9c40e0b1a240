"""How every command ends: the result as text or as JSON on standard output, and as a page where one is asked for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from caseback.cli.options import Json


def answer(output: Json, result: Any, text: Callable[[], object], page: Callable[[Path], object] | None = None) -> None:
    """Print a result, and write its page.

    Parameters
    ----------
    output
        What was asked for. Where it has ``html``, ``page`` is needed.
    result
        Plain data, or a labeled result, for ``--json``.
    text
        Prints the result for people.
    page
        Writes its page to a path.

    Examples
    --------
    >>> answer(Json(as_json=True), {"heads": 2}, text=lambda: print("two heads"))
    {"heads": 2}
    """
    if output.as_json:
        print_json(result)
    else:
        text()
    html = getattr(output, "html", None)
    if html is not None and page is not None:
        page(html)
        say_written(html)


def print_json(result: Any) -> None:
    """Print plain data or a labeled result as JSON: lists on many lines, all else on one.

    It is ASCII, since a token may be half a character, which no encoding can print.
    """
    if not isinstance(result, dict | list):
        from caseback.reports.result_json import result_json

        result = result_json(result)
    typer.echo(json.dumps(result, allow_nan=False, indent=2 if isinstance(result, list) else None))


def say_written(path: Path) -> None:
    """Say on standard error where something was written."""
    typer.echo(f"written to {path}", err=True)
