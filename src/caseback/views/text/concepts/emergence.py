"""What emerges in training, in the terminal: when each kind of head arises, then numbers at some of the steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from caseback.reports.concepts.emergence import EMERGENCE
from caseback.reports.document import Document, checked, drawn_from
from caseback.views.numbers_text import number

__all__ = ["arisen_words", "missing_words", "print_emergence"]

SHOWN = 6  # steps of a table; all are in the page and in the data


@checked
def print_emergence(document: Document, *, console: Console | None = None) -> None:
    """Print what ``emergence_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with EMERGENCE.drawing(document):
        steps = document["steps"]
        say = lambda words: console.print(words, highlight=False, markup=False)  # noqa: E731
        say(f"{document['model']['name']}, {len(steps)} checkpoints: {arisen_words(document)}")
        at = _columns(steps, [kind["arises"] for kind in document["kinds"]])
        columns = [f"{steps[i]:,}" for i in at]
        scores = [
            (kind["kind"], [f"{_shown(kind['score'][i])}{'*' if kind['seen'][i] else ' '}" for i in at])
            for kind in document["kinds"]
            if not kind["missing"]
        ]
        if scores:
            console.print(_table("best head's score by step", columns, scores))
            say("* a head has the label at this step")
        curves = []
        for curve in document["curves"]:
            if not curve["missing"]:
                curves.append((curve["name"], [f"{_shown(curve['values'][i])} " for i in at]))
                if any(value is not None for value in curve["beside"]):
                    curves.append((f"   {curve['beside_is']}", [f"{_shown(curve['beside'][i])} " for i in at]))
        if curves:
            console.print(_table("losses, n-grams and norms by step", columns, curves))
        for words in missing_words(document):
            say(words)


@checked
@drawn_from("a document of emergence", "emergence_document")
def arisen_words(document: Mapping[str, Any]) -> str:
    """When each kind arises, in a sentence.

    Examples
    --------
    >>> kinds = [("induction", 2000, [0, 1]), ("copying", None, [0, 0])]
    >>> rows = [{"kind": kind, "arises": step, "seen": seen, "missing": ""} for kind, step, seen in kinds]
    >>> arisen_words({"kinds": rows})
    'induction from step 2,000; not seen: copying.'
    """
    own = [kind for kind in document["kinds"] if not kind["missing"]]
    arisen = sorted((kind for kind in own if kind["arises"] is not None), key=lambda kind: kind["arises"])
    words = [f"{kind['kind']} from step {kind['arises']:,}" for kind in arisen]
    for what, seen in (("seen, but not to the end", True), ("not seen", False)):
        if absent := [kind["kind"] for kind in own if kind["arises"] is None and any(kind["seen"]) == seen]:
            words.append(f"{what}: {', '.join(absent)}")
    return f"{'; '.join(words) or 'no kind of head was looked for'}."


@checked
@drawn_from("a document of emergence", "emergence_document")
def missing_words(document: Mapping[str, Any]) -> list[str]:
    """What was not measured, each reason once.

    Examples
    --------
    >>> row = {"kind": "induction", "missing": "no room"}
    >>> missing_words({"kinds": [row, {"kind": "copying", "missing": "no room"}], "curves": []})
    ['not measured: induction, copying (no room)']
    """
    reasons: dict[str, list[str]] = {}
    for name, rows in (("kind", document["kinds"]), ("name", document["curves"])):
        for row in rows:
            if row["missing"]:
                reasons.setdefault(row["missing"], []).append(row[name])
    return [f"not measured: {', '.join(names)} ({why})" for why, names in reasons.items()]


def _columns(steps: Sequence[int], arisen: Sequence[int | None]) -> list[int]:
    """Which steps have a column: the ends, those at which most kinds arise, and others spread between.

    Examples
    --------
    >>> _columns([0, 10, 20, 30, 40, 50, 60, 70, 80], [30, None, 30, 50])
    [0, 2, 3, 5, 6, 8]
    """
    last = len(steps) - 1
    counts = Counter(steps.index(step) for step in arisen if step in steps)
    wanted = [0, last, *(i for i, _ in counts.most_common()), *(round(i * last / (SHOWN - 1)) for i in range(SHOWN))]
    return sorted([*dict.fromkeys(wanted)][:SHOWN])


def _table(heading: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(heading)
    for name in columns:
        table.add_column(name, justify="right")
    for name, cells in rows:
        table.add_row(name, *cells)
    return table


def _shown(value: float | None) -> str:
    return "–" if value is None else number(value)
