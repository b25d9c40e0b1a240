"""A board in a model's stream, in the terminal: what is read of it, and what turning a stone does, by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from caseback.reports.concepts.world_model import WORLD_MODEL
from caseback.reports.document import Document, checked, drawn_from
from caseback.views.numbers_text import number, percent
from caseback.views.text.concepts.facts import by_layer

__all__ = ["board_words", "plays_words", "print_world_model", "turned_words"]

PLAYS = 0.5
"""A model plays a game if so much of its probability is on legal moves."""


@checked
def print_world_model(document: Document, *, console: Console | None = None) -> None:
    """Print what ``world_model_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with WORLD_MODEL.drawing(document):
        say = lambda words: console.print(words, highlight=False, markup=False)  # noqa: E731
        layers, reading, edited = document["layers"], document["reading"], document["edited"]
        say(f"{document['model']['name']}: {plays_words(document)}")
        say(board_words(document))
        rows = [
            ("mine or yours", "own"),
            ("black or white", "color"),
            ("untrained", "untrained"),
            ("other games", "other"),
        ]
        console.print(by_layer(layers, [(words, reading[name]) for words, name in rows], percent))
        say(turned_words(document))
        rows = [("errors", "errors"), ("   random, least", "errors_low")]
        console.print(by_layer(layers, [(words, edited[name]) for words, name in rows], number))
        rows = [("legal moves", "legal"), ("   random, most", "legal_high")]
        console.print(by_layer(layers, [(words, edited[name]) for words, name in rows], percent))


@checked
@drawn_from("a document of a world model", "world_model_document")
def plays_words(document: Mapping[str, Any]) -> str:
    """Whether the model plays the game at all, in words.

    Examples
    --------
    >>> plays_words({"counts": {"legal": 0.003, "games": 200}})
    '0.3% of its probability is on legal moves, in 200 held-out games: it does not play this game'
    """
    counts = document["counts"]
    plays = "" if counts["legal"] >= PLAYS else ": it does not play this game"
    return (
        f"{percent(counts['legal'])} of its probability is on legal moves, in {counts['games']} held-out games{plays}"
    )


@checked
@drawn_from("a document of a world model", "world_model_document")
def board_words(document: Mapping[str, Any]) -> str:
    """How well stones are read in both conventions, in words.

    Examples
    --------
    >>> verdict = {"own": 0.96, "color": 0.84, "layers": [2, 1], "gap": 0.12, "error": 0.01, "control": 0.71}
    >>> board_words({"verdict": verdict | {"differs": True}})
    'stones are read as mine or yours: 96% (layer 2) against 84% as black or white (layer 1); controls up to 71%'
    """
    verdict = document["verdict"]
    first, second = ("own", "color") if verdict["gap"] >= 0 else ("color", "own")
    name = {"own": "mine or yours", "color": "black or white"}
    at = dict(zip(("own", "color"), verdict["layers"], strict=True))
    read = "" if verdict["differs"] else ", which is no difference"
    return (
        f"stones are read as {name[first]}: {percent(verdict[first])} (layer {at[first]}) against "
        f"{percent(verdict[second])} as {name[second]} (layer {at[second]}){read}; controls up to "
        f"{percent(verdict['control'])}"
    )


@checked
@drawn_from("a document of a world model", "world_model_document")
def turned_words(document: Mapping[str, Any]) -> str:
    """What turning a stone does at the layer that was chosen on other edits, in words.

    Examples
    --------
    >>> steered = {"layer": 2, "gain": 1.5, "error": 0.1, "control": 0.05, "before": 2.0, "judged": 100, "above": True}
    >>> turned_words({"steered": steered})
    'a stone turned after layer 2 takes away 1.50 ± 0.10 of 2.00 errors on 100 edits (random 0.050): steered'
    """
    steered = document["steered"]
    return (
        f"a stone turned after layer {steered['layer']} takes away {number(steered['gain'])} ± "
        f"{number(steered['error'])} of {number(steered['before'])} errors on {steered['judged']} edits (random "
        f"{number(steered['control'])}): {'steered' if steered['above'] else 'not steered'}"
    )
