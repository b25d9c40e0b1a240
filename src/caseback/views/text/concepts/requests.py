"""Where requests are held, in the terminal: the third answer by layer, beside two controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from caseback.reports.concepts.requests import REQUESTS
from caseback.reports.document import Document, checked, drawn_from
from caseback.views.numbers_text import percent
from caseback.views.text.concepts.facts import by_layer

__all__ = ["pairs_words", "print_requests", "third_words"]


@checked
def print_requests(document: Document, *, console: Console | None = None) -> None:
    """Print what ``requests_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with REQUESTS.drawing(document):
        say = lambda words: console.print(words, highlight=False, markup=False)  # noqa: E731
        say(f"{document['model']['name']}: {pairs_words(document)}")
        say(third_words(document))
        rows = [(f"third, {row['state']}", row["third"]) for row in document["states"]]
        rows += [("source's own answer", document["states"][0]["own"])]
        rows += [("receiver's own answer", document["states"][0]["other"])]
        console.print(by_layer(document["layers"], rows, percent))
        for row in document["pairs"]:
            say(f"   {row['pair']}: {percent(row['share'])} of {row['count']}")


@checked
@drawn_from("a document of requests", "requests_document")
def pairs_words(document: Mapping[str, Any]) -> str:
    """What was asked and put where, in words.

    Examples
    --------
    >>> example = {"source": "The capital of Italy is", "receiver": "The language of Spain is", "third": "Madrid"}
    >>> counts = {"known": 8, "asked": 9, "pairs": 6, "judged": 3}
    >>> pairs_words({"counts": counts, "example": example | {"own": "Rome", "other": "Spanish"}})
    'answers 8 of 9 prompts; 6 pairs, as “The capital of Italy is” put into “The language of Spain is”: third Madrid'
    """
    counts, example = document["counts"], document["example"]
    return (
        f"answers {counts['known']} of {counts['asked']} prompts; {counts['pairs']} pairs, as “{example['source']}” "
        f"put into “{example['receiver']}”: third {example['third']}"
    )


@checked
@drawn_from("a document of requests", "requests_document")
def third_words(document: Mapping[str, Any]) -> str:
    """How often the third answer comes at the layer that was chosen on other pairs, in words.

    Examples
    --------
    >>> held = {"layer": 16, "share": 0.5, "error": 0.1, "control": 0.0, "above": True}
    >>> third_words({"held": held, "counts": {"judged": 20}})
    'behind layer 16 the third answer comes in 50% ± 10% of 20 held-out pairs (controls at most 0%): above'
    """
    held = document["held"]
    return (
        f"behind layer {held['layer']} the third answer comes in {percent(held['share'])} ± {percent(held['error'])} "
        f"of {document['counts']['judged']} held-out pairs (controls at most {percent(held['control'])}): "
        f"{'above' if held['above'] else 'not above'}"
    )
