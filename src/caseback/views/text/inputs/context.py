"""What of a context a generation relies on, in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from caseback.reports.document import Document, checked, drawn_from
from caseback.reports.inputs.context import CONTEXT
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number

__all__ = ["MEASURED", "context_words", "cue_rows", "print_context", "selected_words"]

MEASURED = {
    "kl": "nats between the predictions with the context and without",
    "pcxmi": "bits by which the context raises the token's probability",
    "likelihood_ratio": "the token's probability with the context, as a share of both",
    "prob_diff": "by how much the context raises the token's probability",
}
_MOST = 40


@checked
def print_context(document: Document, *, console: Console | None = None) -> None:
    """Print what ``context_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with CONTEXT.drawing(document):
        say = lambda words: console.print(words, highlight=False, markup=False)  # noqa: E731
        say(f"{document['model']['name']}: {context_words(document)}")
        table = _table("token", "moved by", "without the context")
        for row in document["generated"][:_MOST]:
            mark = " *" if row["selected"] else ""
            table.add_row(visible(row["text"]) + mark, number(row["score"]), visible(row["without"]))
        console.print(table)
        say(f"moved by: {MEASURED[document['how']['measure']]}; * {selected_words(document)}")
        if document["pairs"]:
            table = _table("of the context", "for", "score", "instead of")
            for row in cue_rows(document)[:_MOST]:
                table.add_row(*row)
            console.print(table)


def _table(*names: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for name in names:
        table.add_column(name, justify="right" if name in ("moved by", "score") else "left")
    return table


@checked
@drawn_from("a document of a context", "context_document")
def selected_words(document: Mapping[str, Any]) -> str:
    """By which rule tokens count as moved by the context, in words.

    Examples
    --------
    >>> selected_words({"how": {"threshold": 10.33}}), selected_words({"how": {"threshold": None}})
    ('above 10.33', 'another token without the context')
    """
    threshold = document["how"]["threshold"]
    return "another token without the context" if threshold is None else f"above {number(threshold)}"


@checked
@drawn_from("a document of a context", "context_document")
def cue_rows(document: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """The cues that stand out: the context's token with its place, the token that it caused, the score, its foil."""
    return [
        (
            f"{visible(pair['context_token'])} ({pair['context_pos']})",
            f"{visible(pair['generated_token'])} ({pair['generated_pos']})",
            number(pair["score"]),
            visible(pair["foil"]),
        )
        for pair in document["pairs"]
    ]


@checked
@drawn_from("a document of a context", "context_document")
def context_words(document: Mapping[str, Any]) -> str:
    """How much of a generation hangs on its context, in words.

    Examples
    --------
    >>> token = {"text": " Mary", "without": " John", "score": 10.0, "selected": True}
    >>> pair = {"context_token": "Mary"}
    >>> context_words({"generated": [token], "context": ["Mary", "."], "pairs": [pair]})
    '1 of 1 generated tokens stands out as moved by the context, and comes from 1 of its 2 tokens'
    """
    moved = sum(row["selected"] for row in document["generated"])
    count = f"{moved} of {len(document['generated'])} generated tokens stand{'s' if moved == 1 else ''} out as moved"
    if not document["pairs"]:
        return f"{count} by the context, and none of the context's tokens as their source"
    behind = len({pair.get("context_pos") for pair in document["pairs"]})
    comes = "comes" if moved == 1 else "come"
    return f"{count} by the context, and {comes} from {behind} of its {len(document['context'])} tokens"
