"""Behaviors in the terminal: the margin beside chance, roles with their heads, places of the stream, transfers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from caseback.reports.behavior import BEHAVIOR
from caseback.reports.document import Document, checked, drawn_from
from caseback.views.numbers_text import number, percent, signed

__all__ = ["behavior_words", "print_behavior", "print_behaviors", "transfer_words"]

_BY = {
    "without": "without it",
    "with": "with it",
    "band": "random vectors up to",
    "other": "the other function's",
    "shown": "with examples",
}


@checked
def print_behavior(document: Document, *, console: Console | None = None) -> None:
    """Print what ``behavior_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with BEHAVIOR.drawing(document):
        say = lambda words: console.print(words, highlight=False, markup=False)  # noqa: E731
        for i, one in enumerate(document["behaviors"]):
            if i:
                console.print()
            say(f"{document['model']['name']}, {one['behavior']} ({one['entry']}): {behavior_words(one)}")
            for role in one["roles"]:
                say(f"\n{role['name']} ({_where(role)}): {_counts(role)}")
                own = [head for head in one["heads"] if head["kind"] == role["name"]]
                if own:
                    console.print(_heads(own))
            if one["carried"] is not None:
                say("\nlost where the stream is the counterfactual's at one place, as a share, by layer:")
                console.print(_places(one["carried"]))
            for transfer in one["transfers"]:
                where = f"{transfer['vector']}, {transfer['prompts']}, layer {transfer['layer']}"
                say(f"\n{where}: {transfer_words(transfer)}")
                for name, shown in (("log_prob", signed), ("accuracy", percent)):
                    of = transfer["by"][name]
                    called = _BY | transfer.get("words", {})  # documents of earlier versions have none
                    by = [f"{words} {shown(of[key])}" for key, words in called.items() if of[key] is not None]
                    say(f"   {name}: {', '.join(by)}")
        if document["overlaps"]:
            sharing = [pair for pair in document["overlaps"] if pair["shared"]]
            say(f"\nproved heads in common: {len(sharing)} of {len(document['overlaps'])} pairs of behaviors have some")
            for pair in sharing:
                say(
                    f"   {pair['first']} and {pair['second']}: {', '.join(pair['shared'])} of {pair['sizes'][0]} and "
                    f"{pair['sizes'][1]}, Jaccard {pair['jaccard']:.2f} (chance {pair['chance']:.2f}, band "
                    f"{pair['band']:.2f}, p {number(pair['p'])})"
                )


@checked
@drawn_from("a list of behaviors", "behavior_rows")
def print_behaviors(rows: Sequence[Mapping[str, Any]], *, console: Console | None = None) -> None:
    """Print what ``behavior_rows`` gave: the behaviors that are declared.

    Parameters
    ----------
    rows
        One a behavior.
    console
        Where to print; by default a new ``rich`` console.
    """
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title in ("behavior", "entry", "asked", "roles"):
        table.add_column(title, no_wrap=title in ("behavior", "entry"))
    for row in rows:
        table.add_row(row["name"], row["entry"], row["about"], ", ".join(role["name"] for role in row["roles"]))
    table.add_row("function-vector", "5.4.1", "Pairs of words show a function (--task).", "function-vector head")
    (console or Console()).print(table)


@checked
@drawn_from("a behavior", "behavior_document")
def behavior_words(one: Mapping[str, Any]) -> str:
    """How well a model does a behavior, in a sentence.

    Parameters
    ----------
    one
        One of a document's ``behaviors``.

    Examples
    --------
    >>> margin = dict(measure="logit_diff", clean=2.5, error=0.2, corrupt=0.0, chance=0.0, band=0.5, right=1.0)
    >>> behavior_words({"margin": margin, "present": True, "prompts": [20, 20]})
    'logit_diff +2.50 ± 0.20 on 20 held-out prompts, right on 100%; with shuffled answers up to +0.50: present'
    """
    margin = one["margin"]
    verdict = "present" if one["present"] else "absent, so no head is named"
    right = f"{margin['right'] * 100:.0f}%"
    return (
        f"{margin['measure']} {signed(margin['clean'])} ± {number(margin['error'])} on {one['prompts'][1]} held-out "
        f"prompts, right on {right}; with shuffled answers up to {signed(margin['band'])}: {verdict}"
    )


@checked
@drawn_from("a transfer", "behavior_document")
def transfer_words(transfer: Mapping[str, Any]) -> str:
    """What a vector does to prompts without the function, in words.

    Examples
    --------
    >>> transfer_words({"carries": None})
    'these prompts lack nothing that examples would give'
    """
    carries = transfer["carries"]
    if carries is None:
        return "these prompts lack nothing that examples would give"
    return "carries it over" if carries else "does not carry it over"


def _where(role: Mapping[str, Any]) -> str:
    return f"{role['at']} → {role['to']}" if role["to"] else f"at {role['at']}"


def _counts(role: Mapping[str, Any]) -> str:
    if role["missing"]:
        return f"not looked for: {role['missing']}"
    if not role["candidates"]:
        return "none"
    words = f"{role['proved']} of {role['candidates']} candidates proved"
    if role["together"] is not None:
        band = "" if role["together_band"] is None else f" (random sets up to {signed(role['together_band'])})"
        words += f"; all with the look together {signed(role['together'])}{band}"
    return words


def _heads(own: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title in ("", "score", "control", "band", "effect", "random", "verdict"):
        table.add_column(title, justify="right" if title and title != "verdict" else "left", no_wrap=True)
    for one in own:
        table.add_row(
            f"  {one['component']}",
            *(number(one[name]) for name in ("score", "control", "band")),
            f"{signed(one['effect'])} ± {number(one['draw']['error'])}",
            signed(one["draw"]["random"]),
            " ".join([one["grade"], one["draw"].get("proved_by", "")]).strip(),
        )
    return table


def _places(carried: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("")
    for layer in carried["layers"]:
        table.add_column(str(layer), justify="right", no_wrap=True)
    for place, shares in zip(carried["places"], carried["shares"], strict=True):
        table.add_row(Text(f"  {place}"), *(f"{share:.2f}" for share in shares))
    return table
