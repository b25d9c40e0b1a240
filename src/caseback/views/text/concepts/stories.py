"""The stories of many prompts in the terminal: what they share, where it goes, and whether it held elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from caseback.reports.document import Document, checked, drawn_from
from caseback.reports.story.several import STORIES
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import percent

__all__ = ["answer_rows", "counts_words", "print_stories", "shared_words"]

SHOWN = 12
ANSWER = ("answer", "p", "instead of", "hangs on", "carried by")
_FEW = 4  # words, and parts, in a row of an answer


@checked
def print_stories(document: Document, *, console: Console | None = None) -> None:
    """Print what ``stories`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with STORIES.drawing(document):
        say = lambda words: console.print(words, highlight=False, markup=False)  # noqa: E731
        say(f"{document['model']['name']}, {document['source'] or 'prompts'}: {counts_words(document)}")
        if "answer" in document:
            say(f"after “{document['answer']['prompt']}”")
            table = _table(*ANSWER, words=True)
            for row in answer_rows(document):
                table.add_row(*row)
            console.print(table)
        say(shared_words(document))
        if document["parts"]:
            table = _table("part", "carries", "against", "share", "sd")
            for row in document["parts"][:SHOWN]:
                name = f"{row['name']} *" if row["above"] else row["name"]
                counts = (str(row[role]) if row[role] else "" for role in ("carrier", "opponent"))
                table.add_row(name, *counts, f"{row['mean']:+.2f}", f"{row['sd']:.2f}")
            console.print(table)
        if document["places"]:
            table = _table("place", "word matters", "hop", "layers")
            for row in document["places"]:
                layers = "" if row["first"] is None else f"{row['first']:g} to {row['last']:g}"
                table.add_row(row["place"] or "elsewhere", str(row["words"]), str(row["hops"]), layers)
            console.print(table)
        if document["checks"]:
            table = _table("check", "held", "weak", "failed", "mean")
            for row in document["checks"]:
                counts = (str(row[verdict]) for verdict in ("held", "weak", "failed"))
                table.add_row(row["name"], *counts, f"{row['mean']:.2f}")
            console.print(table)


def _table(first: str, *others: str, words: bool = False) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="left" if words else "right", no_wrap=not words)
    return table


@checked
@drawn_from("a document of an answer's stories", "answer_stories")
def answer_rows(document: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """An answer token by token: itself, its probability, its foil, which words it hangs on and which parts carry it.

    Words are of the prompt, or of the answer before it, which is said.

    Examples
    --------
    >>> word = {"pos": 2, "text": " Mary", "share": 0.8}
    >>> row = {"target": {"text": " her"}, "foil": {"text": " him"}, "prob": 0.7, "words": [word],
    ...        "preference": {"prefers": True}, "parts": [{"name": "L2H0", "share": 0.5}], "changes": ["Mary → John"]}
    >>> answer_rows({"rows": [row], "answer": {"start": 2}})
    [('␣her', '70%', '␣him', '␣Mary (answer) +0.80', 'L2H0 +0.50')]
    """
    start, rows = document["answer"]["start"], []
    for row in document["rows"]:
        words = [
            f"{visible(w['text'])}{' (answer)' if w['pos'] >= start else ''} {w['share']:+.2f}"
            for w in row["words"][:_FEW]
        ]
        parts = [f"{part['name']} {part['share']:+.2f}" for part in row["parts"][:_FEW]]
        why = "no word alone" if row["changes"] else "nothing that was tried moves it"
        hangs = (", ".join(words) or why) if row["preference"]["prefers"] else "not preferred beyond habit"
        rows.append(
            (
                visible(row["target"]["text"]),
                percent(row["prob"]),
                visible(row["foil"]["text"]),
                hangs,
                ", ".join(parts) if row["preference"]["prefers"] else "",
            )
        )
    return rows


@checked
@drawn_from("a document of stories", "stories")
def counts_words(document: Mapping[str, Any]) -> str:
    """On how many prompts the answer is preferred, and how many have a story, in words.

    Examples
    --------
    >>> counts_words({"counts": {"prompts": 10, "preferred": 9, "stories": 8}, "depth": "quick"})
    '10 prompts at depth quick: the answer is preferred on 9, and 8 of these have a counterfactual and so a story'
    """
    of, what = document["counts"], "tokens" if "answer" in document else "prompts"
    return (
        f"{of['prompts']} {what} at depth {document['depth']}: the answer is preferred on {of['preferred']}, and "
        f"{of['stories']} of these have a counterfactual and so a story"
    )


@checked
@drawn_from("a document of stories", "stories")
def shared_words(document: Mapping[str, Any]) -> str:
    """Which parts the stories share, in words.

    Examples
    --------
    >>> part = {"name": "L2H1", "carrier": 8, "opponent": 0, "mean": 0.5, "above": True}
    >>> shared_words({"counts": {"stories": 8}, "band": 3, "parts": [part]})
    'In more stories than any part is by chance (3): L2H1 (carries it in 8 of 8, +0.50).'
    """
    count = document["counts"]["stories"]
    if not count:
        return "No story, so no part is named."
    shared = [row for row in document["parts"] if row["above"]]
    if document["band"] >= count:
        return f"Too few stories to tell what they share: by chance some part is named in all {count}."
    if not shared:
        return f"No part is named in more stories than one is by chance ({document['band']})."
    listed = []
    for row in shared:
        role = "carries" if row["carrier"] >= row["opponent"] else "works against"
        listed.append(
            f"{row['name']} ({role} it in {max(row['carrier'], row['opponent'])} of {count}, {row['mean']:+.2f})"
        )
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return f"In more stories than any part is by chance ({document['band']}): {', '.join(listed[:SHOWN])}{more}."
