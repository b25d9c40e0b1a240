"""The prompt's claim against memory, in the terminal: the heads of both kinds, and what turning them does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from caseback.reports.concepts.context_memory import CONTEXT_MEMORY
from caseback.reports.document import Document, checked, drawn_from
from caseback.views.numbers_text import number, percent, signed

__all__ = ["claims_words", "dial_words", "print_context_memory"]


@checked
def print_context_memory(document: Document, *, console: Console | None = None) -> None:
    """Print what ``context_memory_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with CONTEXT_MEMORY.drawing(document):
        say = lambda words: console.print(words, highlight=False, markup=False)  # noqa: E731
        say(f"{document['model']['name']}, {document['relation'] or 'facts'}: {claims_words(document)}")
        for dial in document["dials"]:
            heads = [head for head in document["heads"] if head["kind"] == dial["kind"]]
            named = ", ".join(f"{head['name']} {signed(head['direct'])}" for head in heads)
            say(f"\n{dial['kind']} heads ({named}): {dial_words(dial)}")
            table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
            table.add_column("   factor", no_wrap=True)
            for factor in document["factors"]:
                table.add_column(f"{factor:g}".replace("-", "−"), justify="right", no_wrap=True)
            random = dial["random"] or {}
            rows = [("claimed answer", dial["claimed"]), ("   random heads", random.get("mean"))]
            rows += [("known answer", dial["known"]), ("   random heads", random.get("known"))]
            rows += [("right, claim agrees", dial["agreeing"]), ("right, no claim", dial["bare"])]
            for name, values in rows:
                if values is not None:
                    table.add_row(f"   {name}", *map(percent, values))
            console.print(table)


@checked
@drawn_from("a document of context and memory", "context_memory_document")
def claims_words(document: Mapping[str, Any]) -> str:
    """How many facts the model knows, and what it says where the prompt claims otherwise.

    Examples
    --------
    >>> dial = {"claimed": [0.0, 0.5], "known": [1.0, 0.25]}
    >>> counts = {"facts": 9, "known": 8, "judged": 4}
    >>> claims_words({"counts": counts, "dials": [dial], "factors": [0.0, 1.0]})
    'knows 8 of 9 facts; of 4 prompts that claim otherwise it answers 50% as claimed and 25% as it knows'
    """
    counts, dial = document["counts"], document["dials"][0]
    at = document["factors"].index(1.0)
    return (
        f"knows {counts['known']} of {counts['facts']} facts; of {counts['judged']} prompts that claim otherwise it "
        f"answers {percent(dial['claimed'][at])} as claimed and {percent(dial['known'][at])} as it knows"
    )


@checked
@drawn_from("a dial", "context_memory_document")
def dial_words(dial: Mapping[str, Any]) -> str:
    """What the difference of the two answers' logits loses, or gains, without the heads of a kind, in words.

    Examples
    --------
    >>> dial_words({"kind": "memory", "fall": 2.0, "error": 0.1, "band": 0.6, "above": True})
    'without them the claim gains 2.00 ± 0.10 logits; less two errors that is past +0.60, 95% of random sets'
    """
    way = "loses" if dial["kind"] == "in-context" else "gains"
    words = f"without them the claim {way} {number(dial['fall'])}"
    if dial["error"] is not None:
        words += f" ± {number(dial['error'])}"
    if dial["above"] is None:
        return f"{words} logits, with nothing to compare"
    past = "past" if dial["above"] else "not past"
    return f"{words} logits; less two errors that is {past} {signed(dial['band'])}, 95% of random sets"
