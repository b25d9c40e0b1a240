"""Detectors of truth in the terminal: one line each, baselines below, on affirmative statements and on negated ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from caseback.reports.concepts.truth import TRUTH
from caseback.reports.document import Document, checked, drawn_from

__all__ = ["left_out_words", "print_truth", "statements_words", "verdict_words"]


@checked
def print_truth(document: Document, *, console: Console | None = None) -> None:
    """Print what ``truth_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with TRUTH.drawing(document):
        say = lambda words: console.print(words, highlight=False, markup=False)  # noqa: E731
        say(f"{document['model']['name']}, {document['title'] or 'statements'}: {statements_words(document)}")
        negated = any(row["negated"] is not None for row in document["rows"])
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
        table.add_column("AUROC of", no_wrap=True)
        for name in ("held out", "95 %", "shuffled", "ECE", *(["negated"] if negated else [])):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("read at", no_wrap=True)
        for baseline in (False, True):
            for row in document["rows"]:
                if row["baseline"] == baseline:
                    own = row["affirmative"]
                    cells = ["–"] * 4 if own is None else [
                        _three(own["auroc"]),
                        f"{_three(own['low'])}–{_three(own['high'])}",
                        _three(own["shuffled"]),
                        _three(own["calibration_error"]),
                    ]  # fmt: skip
                    if negated:
                        cells.append("–" if row["negated"] is None else _three(row["negated"]["auroc"]))
                    name = row["name"] if own is None or not own["above"] else f"{row['name']} *"
                    table.add_row(name, *cells, row["place"], style="dim" if baseline else "")
            if not baseline:
                table.add_section()
        console.print(table)
        say(verdict_words(document))
        for words in left_out_words(document):
            say(f"left out: {words}")


@checked
@drawn_from("a document of truth", "truth_document")
def statements_words(document: Mapping[str, Any]) -> str:
    """How many statements of how many topics, and what was held out, in words.

    Examples
    --------
    >>> counts = {"count": 8, "true": 4, "negated": 0, "facts": 4}
    >>> how = {"hold_out": "topics", "n_folds": 2, "resamples": 9, "seed": 0}
    >>> statements_words({"statements": counts, "topics": [1, 2], "how": how})
    '8 statements (4 true, 0 negated) of 4 facts and 2 topics; judged on topics that were not seen, in 2 parts'
    """
    of, how = document["statements"], document["how"]
    return (
        f"{of['count']} statements ({of['true']} true, {of['negated']} negated) of {of['facts']} facts and "
        f"{len(document['topics'])} topic{'s' * (len(document['topics']) != 1)}; judged on {how['hold_out']} that were "
        f"not seen, in {how['n_folds']} parts"
    )


@checked
@drawn_from("a document of truth", "truth_document")
def verdict_words(document: Mapping[str, Any]) -> str:
    """Which detectors are past every baseline, in words.

    Examples
    --------
    >>> row = {"name": "mass_mean", "baseline": False, "affirmative": {"above": False}, "negated": None}
    >>> verdict_words({"rows": [row]})
    'No detector is past every baseline.'
    """
    past = []
    for group in ("affirmative", "negated"):
        names = [row["name"] for row in document["rows"] if row[group] is not None and row[group]["above"]]
        if names:
            past.append(f"{', '.join(names)} on {group} statements")
    if not past:
        return "No detector is past every baseline."
    return f"Past every baseline, by the ends of intervals: {'; '.join(past)}."


@checked
@drawn_from("a document of truth", "truth_document")
def left_out_words(document: Mapping[str, Any]) -> list[str]:
    """Which detectors were left out, by what they take, in words.

    Examples
    --------
    >>> left_out_words({"left_out": [{"name": "ccs", "lacks": "negations"}, {"name": "plane", "lacks": "negations"}]})
    ['ccs, plane: these take negations']
    """
    by: dict[str, list[str]] = {}
    for row in document["left_out"]:
        by.setdefault(row["lacks"], []).append(row["name"])
    return [
        f"{', '.join(names)}: {'these take' if len(names) > 1 else 'it takes'} {lacks}" for lacks, names in by.items()
    ]


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
