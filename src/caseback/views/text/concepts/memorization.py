"""Text known by heart, in the terminal: what is continued word for word, and how layers come to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from caseback.reports.concepts.memorization import MEMORIZATION
from caseback.reports.document import Document, checked, drawn_from
from caseback.views.numbers_text import number, percent, signed
from caseback.views.text.concepts.facts import by_layer

__all__ = ["layer_words", "print_memorization", "verbatim_words"]

NAMES = {"prompt": "as it is", "shuffled": "words shuffled", "matched": "matched text"}


@checked
def print_memorization(document: Document, *, console: Console | None = None) -> None:
    """Print what ``memorization_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with MEMORIZATION.drawing(document):
        say = lambda words: console.print(words, highlight=False, markup=False)  # noqa: E731
        say(f"{document['model']['name']}, {document['name'] or 'texts'}: {verbatim_words(document)}")
        if document["counts"]["verbatim"]:
            say(layer_words(document, "settled"))
            say(layer_words(document, "gradient"))
            for what, shown in (("rank", number), ("gradient", percent)):
                curves = document["curves"][what]
                rows = [(f"{what}, {NAMES[name]}", curve) for name, curve in curves.items() if curve is not None]
                console.print(by_layer(document["layers"], rows, shown))
        for row in document["texts"]:
            if row["verbatim"]:
                say(f"   {row['prompt']} | {row['continuation']}")


@checked
@drawn_from("a document of memorized text", "memorization_document")
def verbatim_words(document: Mapping[str, Any]) -> str:
    """How many texts are continued word for word, with and without the order of the words before, in words.

    Examples
    --------
    >>> verbatim_words({"counts": {"texts": 40, "verbatim": 22, "matched": 20, "shuffled": 3}})
    '22 of 40 are continued word for word; with their words in another order, 3 of 22 begin so'
    >>> verbatim_words({"counts": {"texts": 40, "verbatim": 0, "matched": 0, "shuffled": 0}})
    'none of 40 is continued word for word, so there is nothing to compare'
    """
    counts = document["counts"]
    if not counts["verbatim"]:
        return f"none of {counts['texts']} is continued word for word, so there is nothing to compare"
    return (
        f"{counts['verbatim']} of {counts['texts']} are continued word for word; with their words in another order, "
        f"{counts['shuffled']} of {counts['verbatim']} begin so"
    )


@checked
@drawn_from("a document of memorized text", "memorization_document")
def layer_words(document: Mapping[str, Any], what: str) -> str:
    """From which layer on the continuation is first, or at which the gradient stands, beside matched texts, in words.

    Examples
    --------
    >>> one = {"own": 24.5, "matched": 26.0, "n": 20, "difference": -1.5, "error": 0.5, "past": True}
    >>> layer_words({"settled": one}, "settled")
    'first choice from layer 24.50 on, of 20 matched texts from 26.00 (−1.50 ± 0.50): earlier'
    >>> layer_words({"gradient": None}, "gradient")
    'gradient: fewer than four matched texts, so no comparison'
    """
    one = document[what]
    if one is None:
        return f"{what}: fewer than four matched texts, so no comparison"
    own, matched = number(one["own"]), number(one["matched"])
    less, more = ("earlier", "later") if what == "settled" else ("lower", "higher")
    verdict = (less if one["difference"] < 0 else more) if one["past"] else "no difference past two standard errors"
    begun = (
        f"first choice from layer {own} on, of {one['n']} matched texts from {matched}"
        if what == "settled"
        else f"gradient of the weights at layer {own} on average, of {one['n']} matched texts at {matched}"
    )
    return f"{begun} ({signed(one['difference'])} ± {number(one['error'])}): {verdict}"
