"""Input attributions of many prompts in the terminal: how far to trust each method, and where they point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from caseback.reports.document import Document, checked, drawn_from
from caseback.reports.inputs.over_prompts import ATTRIBUTED_PROMPTS
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import percent, signed

__all__ = ["beyond_chance", "print_attributed_prompts", "prompts_words"]

_SHOWN = 16


@checked
def print_attributed_prompts(document: Document, *, console: Console | None = None) -> None:
    """Print what ``attributions_over_prompts`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with ATTRIBUTED_PROMPTS.drawing(document):
        say = lambda words: console.print(words, highlight=False, markup=False)  # noqa: E731
        say(f"{document['model']['name']}, {document['source'] or 'prompts'}: {prompts_words(document)}")
        methods = document["methods"]
        table = _table("method", "lost without the top", "with it alone", "better than chance")
        for method in methods:
            better = "" if method["better"] is None else f"{method['better']} of {len(document['rows'])}"
            table.add_row(method["label"], *(beyond_chance(method, key) for key in ("lost", "left")), better)
        console.print(table)
        say("logit difference beyond random orders, mean and standard error: high and low are faithful")
        for one in document["refused"]:
            say(f"left out: {one['name']}: {one['why']}")
        for what in ("places", "words"):
            if document[what]:
                table = _table(what[:-1], *(method["label"] for method in methods), "if even", "in")
                for row in document[what][:_SHOWN]:
                    shares = (percent(row["share"][method["name"]]) for method in methods)
                    table.add_row(visible(row[what[:-1]]), *shares, percent(row["even"]), str(row["count"]))
                console.print(table)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


@checked
@drawn_from("a method of attributed prompts", "attributions_over_prompts")
def beyond_chance(method: Mapping[str, Any], key: str) -> str:
    """A method's faithfulness beyond random orders, with its standard error.

    Examples
    --------
    >>> beyond_chance({"lost": {"mean": 3.9562, "error": 0.4457}}, "lost")
    '+3.96 ± 0.45'
    """
    one = method[key]
    if one is None:
        return "no chance drawn"
    return signed(one["mean"]) + ("" if one["error"] is None else f" ± {one['error']:.2f}")


@checked
@drawn_from("a document of attributed prompts", "attributions_over_prompts")
def prompts_words(document: Mapping[str, Any]) -> str:
    """How many prompts were attributed, by what, in words.

    Examples
    --------
    >>> prompts_words({"rows": [{}, {}], "features": "word", "methods": [{"label": "Occlusion"}]})
    '2 prompts, each word scored by Occlusion'
    """
    labels = ", ".join(method["label"] for method in document["methods"])
    count = len(document["rows"])
    return f"{count} prompt{'s' if count != 1 else ''}, each {document['features']} scored by {labels}"
