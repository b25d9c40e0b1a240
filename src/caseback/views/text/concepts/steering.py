"""Steering in the terminal: continuations side by side, and the table of dose and response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from caseback.reports.concepts.steering import STEERING
from caseback.reports.document import Document, checked, drawn_from
from caseback.views.numbers_text import number, signed

__all__ = ["print_steering"]

_BESIDE = 3
_COLUMNS = {
    "effect": "effect",
    "control_effect": "random",
    "kl": "KL",
    "control_kl": "random KL",
    "perplexity": "perplexity",
    "control_perplexity": "random perplexity",
}


@checked
@drawn_from("a document of steering", "steering_document")
def print_steering(document: Document, *, console: Console | None = None) -> None:
    """Print what ``steering_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    STEERING.check(document)
    console = console or Console()
    direction = document["direction"]
    negative, positive = direction["classes"]
    places = ", ".join(direction["places"][:3]) + (" ..." if len(direction["places"]) > 3 else "")
    judged = [value for value in direction["auroc"] if value is not None]
    judgement = f", AUROC {max(judged):.3f}" if judged else ""
    console.print(Text(f"{positive} less {negative} at {places}{judgement}; {_unit(document)}"))
    if (condition := document.get("condition")) is not None:
        console.print(Text(condition_words(condition)))
    for b, row in enumerate(document["continuations"]):
        if row["unsteered"] or any(row["steered"]):
            note = "" if condition is None or condition["met"][b] else left_alone(condition, b)
            console.print(_continuations(row, document["strengths"], note=note))
    console.print(_doses(document))
    for line in summary(document):
        console.print(Text(line))


def summary(document: Mapping[str, Any]) -> list[str]:
    """What the curve comes to, in sentences."""
    dose = document["dose"]
    lines = []
    if "perplexity" in dose:
        ends = [(dose["doubles_below"], "below"), (dose["doubles_above"], "above")]
        given = [f"at {signed(value)}" for value, _ in ends if value is not None]
        lines.append(
            f"Perplexity doubles {' and '.join(given)}." if given else "Perplexity doubles at none of these doses."
        )
    doubles = any(dose[name] is not None for name in ("doubles_below", "doubles_above"))
    rises = "goes one way" if dose["monotone"] else "turns round"
    return [*lines, f"The effect {rises} {'up to there' if doubles else 'over these doses'}."]


def condition_words(condition: Mapping[str, Any]) -> str:
    """Which prompts are steered, and how well others were told apart by it, in a sentence."""
    read = "mean" if condition["read"] == "mean" else "last state"
    sign = "above" if condition["larger"] else "below"
    judged = "" if condition["f1"] is None else f" (F1 {condition['f1']:.2f} on the prompts that it was chosen on)"
    return (
        f"Steered: prompts whose {read} at {condition['place']} has a cosine {sign} {number(condition['threshold'])}"
        f"{judged}, {sum(condition['met'])} of {len(condition['met'])}; the curve is of these."
    )


def left_alone(condition: Mapping[str, Any], prompt: int) -> str:
    """Why a prompt is not steered."""
    return f"left alone: cosine {number(condition['similarity'][prompt])}"


def _unit(document: Mapping[str, Any]) -> str:
    size = "a state's mean length" if document["unit"] == "norm" else document["direction"]["difference"]
    tokens = {"all": "all tokens", "prompt": "the prompt's tokens", "generated": "generated tokens"}
    return f"1 is {size}; added to {tokens[document['where']]}"


def _continuations(row: Mapping[str, Any], strengths: list[float], *, note: str) -> Table:
    names = ["unsteered", *(signed(strength) for strength in strengths)]
    texts = [Text(text.strip("\n")) for text in (row["unsteered"], *row["steered"])]
    title = Text.assemble((row["prompt"], "bold"), f" ({note})" if note else "")
    table = Table(title=title, title_justify="left", show_lines=False)
    if len(texts) <= _BESIDE:
        for name in names:
            table.add_column(name, ratio=1)
        table.add_row(*texts)
        return table
    table.add_column("strength", justify="right")
    table.add_column("continuation", ratio=1)
    for name, text in zip(names, texts, strict=True):
        table.add_row(name, text)
    return table


def _doses(document: Mapping[str, Any]) -> Table:
    dose = document["dose"]
    shown = [name for name in _COLUMNS if name in dose]
    table = Table(title=Text(f"Dose and response: {document['metric']}", style="bold"), title_justify="left")
    for heading in ("dose", *(_COLUMNS[name] for name in shown)):
        table.add_column(heading, justify="right")
    for i, value in enumerate(dose["dose"]):
        cells = ["-" if dose[name][i] is None else number(dose[name][i]) for name in shown]
        table.add_row(signed(value) if value else "0", *cells)
    return table
