"""Explanations put to a judge, in the terminal: each feature's scores beside another's words, and beside chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from caseback.reports.concepts.judged_explanations import JUDGED
from caseback.reports.document import Document, checked, drawn_from
from caseback.reports.tokens_text import visible

__all__ = ["judged_words", "print_judged_explanations"]

_HEADS = ("feature", "windows", "detection", "another's", "chance", "fuzzing", "another's", "chance", "said to fire at")


@checked
def print_judged_explanations(document: Document, *, console: Console | None = None) -> None:
    """Print what ``judged_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with JUDGED.drawing(document):
        own, how = document["dictionary"], document["how"]
        say = lambda words: console.print(words, highlight=False, markup=False, soft_wrap=True)  # noqa: E731
        say(f"{own['architecture']} of {document['model']['name']} at {own['site']}: {judged_words(document)}")
        say(" ".join(_HEADS))
        for row in document["features"]:
            shares = [_shown(row[name][key]) for name in document["means"] for key in ("auroc", "another", "chance")]
            cells = zip(_HEADS, (str(row["feature"]), str(row["windows"]), *shares), strict=False)
            words = visible(row["explanation"]).replace("␣", " ")
            say(" ".join(f"{cell:>{len(head)}}" for head, cell in cells) + f" {words}")
        by = f", asked of {how['judge']}" if how["judge"] else ""
        say(f"areas under the curve, .5 where a judge knows nothing: {how['asked']:,} questions{by}")
        say("chance: what such a judge passes once in twenty, at so few windows")


@checked
@drawn_from("a document of judged explanations", "judged_document")
def judged_words(document: Mapping[str, Any]) -> str:
    """How well explanations predict where features fire, in words.

    Examples
    --------
    >>> means = {"auroc": 0.8, "another": 0.5, "judged": 3, "above": 2}
    >>> judged_words({"means": {"detection": means, "fuzzing": means | {"above": 0}}})
    "detection .80 (with another's words .50; 2 of 3 above chance), fuzzing .80 (with another's words .50; 0 of 3 ...)"
    """
    parts = []
    for name, mean in document["means"].items():
        if not mean["judged"]:
            parts.append(f"{name}: no feature fires in two windows, and is silent in another")
            continue
        beside = "" if mean["another"] is None else f"with another's words {_shown(mean['another'])}; "
        parts.append(f"{name} {_shown(mean['auroc'])} ({beside}{mean['above']} of {mean['judged']} above chance)")
    return ", ".join(parts)


def _shown(share: float | None) -> str:
    return "–" if share is None else f"{share:.2f}".removeprefix("0")
