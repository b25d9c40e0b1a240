"""A function as what one MLP adds, in the terminal: the answer's log probability by layer, beside controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from caseback.reports.concepts.argument_functions import ARGUMENT_FUNCTION
from caseback.reports.document import Document, checked, drawn_from
from caseback.views.numbers_text import number, percent, signed
from caseback.views.text.concepts.facts import by_layer

__all__ = ["added_words", "print_argument_function", "task_words"]


@checked
def print_argument_function(document: Document, *, console: Console | None = None) -> None:
    """Print what ``argument_function_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with ARGUMENT_FUNCTION.drawing(document):
        say = lambda words: console.print(words, highlight=False, markup=False)  # noqa: E731
        layers, curves, random = document["layers"], document["curves"], document["random"]
        say(f"{document['model']['name']}, {document['function'] or 'a function'}: {task_words(document)}")
        say(added_words(document))
        nats = [("log p(answer)", curves["function"]), ("   copying's", curves["copying"])]
        nats += [("   random, most", random["high"])] if random else []
        console.print(by_layer(layers, nats, signed))
        shares = [("says the answer", curves["answers"]), ("says the argument", curves["arguments"])]
        console.print(by_layer(layers, shares, percent))


@checked
@drawn_from("a document of a function", "argument_function_document")
def task_words(document: Mapping[str, Any]) -> str:
    """How well the model applies the function, and copies, in words.

    Examples
    --------
    >>> task_words({"counts": {"shown": 0.95, "copied": 1.0, "prompts": 16, "plain": -8.5}})
    'does it in 95% of few-shot prompts and copies in 100%; the answer to 16 copying prompts has log p −8.50'
    """
    counts = document["counts"]
    return (
        f"does it in {percent(counts['shown'])} of few-shot prompts and copies in {percent(counts['copied'])}; the "
        f"answer to {counts['prompts']} copying prompts has log p {signed(counts['plain'])}"
    ) + ("" if counts["copied"] >= 0.5 else ". It hardly copies, so these prompts are no test of what is added to them")


@checked
@drawn_from("a document of a function", "argument_function_document")
def added_words(document: Mapping[str, Any]) -> str:
    """What adding the vector of the layer that was chosen on other queries does, in words.

    Examples
    --------
    >>> best = {"layer": 24, "gain": 6.5, "error": 0.5, "control": 0.25, "answers": 0.5, "above": True}
    >>> added_words({"best": best, "counts": {"judged": 8}, "how": {"factor": 2.0}})
    'MLP 24 × 2: +6.50 ± 0.50 nats on 8 held-out queries (controls +0.25), 50% answered: above'
    """
    best = document["best"]
    return (
        f"MLP {best['layer']} × {document['how']['factor']:g}: {signed(best['gain'])} ± {number(best['error'])} nats "
        f"on {document['counts']['judged']} held-out queries (controls {signed(best['control'])}), "
        f"{percent(best['answers'])} answered: {'above' if best['above'] else 'not above'}"
    )
