"""Which learner a model's predictions follow, in the terminal: learners by how far they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from caseback.reports.concepts.in_context_learner import IN_CONTEXT_LEARNER
from caseback.reports.document import Document, checked, drawn_from
from caseback.views.numbers_text import number, percent, signed

__all__ = ["follows_words", "learning_words", "print_in_context_learner"]


@checked
def print_in_context_learner(document: Document, *, console: Console | None = None) -> None:
    """Print what ``in_context_learner_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with IN_CONTEXT_LEARNER.drawing(document):
        console.print(f"{document['model']['name']}: {learning_words(document)}", highlight=False, markup=False)
        console.print(follows_words(document), highlight=False, markup=False)
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("   learner", "from the model", "agreement", "95% dealt anew", "from the targets"):
            table.add_column(name, justify="left" if "learner" in name else "right", no_wrap=True)
        for row in document["learners"]:
            agreement = ["–" if row[name] is None else signed(row[name]) for name in ("agreement", "dealt")]
            apart = f"{number(row['difference'])} ± {number(row['error'])}"
            table.add_row(f"   {row['name']}", apart, *agreement, number(row["miss"]))
        console.print(table)


@checked
@drawn_from("a document of learners", "in_context_learner_document")
def learning_words(document: Mapping[str, Any]) -> str:
    """Whether the model learns from its prompts at all, in words.

    Examples
    --------
    >>> counts = {"answered": 0.95, "miss": 4.5, "middle": 8.25, "prompts": 40}
    >>> learning_words({"counts": counts, "how": {"shots": 12}})
    'after 12 examples it misses by 4.50 (squared), saying the middle by 8.25; answers have 95% of its probability'
    """
    counts = document["counts"]
    return (
        f"after {document['how']['shots']} examples it misses by {number(counts['miss'])} (squared), saying the middle "
        f"by {number(counts['middle'])}; answers have {percent(counts['answered'])} of its probability"
    )


@checked
@drawn_from("a document of learners", "in_context_learner_document")
def follows_words(document: Mapping[str, Any]) -> str:
    """Which learner is followed, and which others are not told from it, in words.

    Examples
    --------
    >>> verdict = {"follows": "gradient 1", "gap": 1.5, "error": 0.25, "beside": ["ridge"], "followed": True}
    >>> follows_words({"verdict": verdict, "counts": {"prompts": 40}})
    "follows gradient 1: nearer by 1.50 ± 0.25 than the mean of outputs on 40 prompts; not told from it: 'ridge'"
    """
    verdict = document["verdict"]
    nearest, gap = verdict["follows"], verdict["gap"]
    by = f"{number(abs(gap))} ± {number(verdict['error'])}"
    than = f"{'nearer' if gap > 0 else 'farther'} by {by} than the mean of outputs"
    beside = f"; not told from it: {', '.join(map(repr, verdict['beside']))}" if verdict["beside"] else ""
    judged = f"{than} on {document['counts']['prompts']} prompts{beside}"
    return (
        f"follows {nearest}: {judged}"
        if verdict["followed"]
        else f"follows none; {nearest}, chosen on the other half: {judged}"
    )
