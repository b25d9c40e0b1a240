"""A dictionary's features in the terminal: a table of them, a card for each that was asked for, and a prompt's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from caseback.reports.dictionaries.features import FEATURES
from caseback.reports.document import checked
from caseback.views.numbers_text import number, percent
from caseback.views.text.factors import factor_lines

__all__ = ["print_features"]


@checked
def print_features(document: Mapping[str, Any], console: Console | None = None, *, most: int = 20) -> None:
    """Print the features of a document: those with the largest activation first.

    Parameters
    ----------
    document
        What ``features_document`` returns.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    most
        Rows of the table.

    Raises
    ------
    CasebackError
        If it is not a document of features, or cannot be drawn truthfully.

    Examples
    --------
    ::

        print_features(features_document(model, dictionary, texts))
    """
    console = console or Console()
    with FEATURES.drawing(document):
        lines = list(_lines(document, most))
    for line in lines:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _lines(document: Mapping[str, Any], most: int) -> Iterator[Text]:
    own, features = document["dictionary"], document["features"]
    where = own["site"] if own["target"] == own["site"] else f"{own['site']} -> {own['target']}"
    silent = sum(row["density"] == 0 for row in features)
    yield Text(
        f"{own['architecture']} of {document['model']['name']} at {where}: {own['n_features']} features, "
        f"{silent} never active on {document['tokens']:,} tokens, "
        "without the first of rows and those whose states are ten times as long as the median"
    )
    if document["prompt"] is not None:
        yield Text("")
        for token in document["prompt"]:
            strongest = "  ".join(f"{one['feature']} {number(one['activation'])}" for one in token["features"])
            yield Text.assemble((f"{token['token']:>16}", "bold"), f"  {token['active']:3} active: {strongest}")
    if (factors := document.get("factors")) is not None:
        yield Text("")
        yield from factor_lines(factors["tokens"], factors["parts"], factors["explained"])
    yield Text("")
    yield Text(f"{'feature':>7} {'active':>8} {'largest':>8}  writes                                   strongest at")
    by_size = sorted(features, key=lambda row: -abs(row["max"]))
    for row in by_size[:most]:
        yield Text.assemble(
            (f"{row['feature']:7}", "bold"),
            f" {percent(row['density']):>8} {number(row['max']):>8}  ",
            (f"{' '.join(row['up']):40.40}", "dark_orange"),
            f" {''.join(row['strongest'])}",
            (f"  {row['label']}" if row.get("label") else "", "italic"),
        )
    if len(features) > most:
        yield Text(f"… and {len(features) - most} more: --html writes a page with all of them")
    for card in document["cards"] if len(document["cards"]) <= most else ():
        yield from card_lines(card)


def _scores(one: Mapping[str, Any]) -> str:
    """How well a list of conditions detects and marks, beside another feature's list."""
    if one["detection"] is None:
        return "in too few windows to be judged"
    scores = []
    for name in ("detection", "fuzzing"):
        other = one[f"{name}_of_another"]
        beside = "" if other is None else f" (another's list {other:.2f})"
        scores.append(f"{name} {one[name]:.2f}{beside}")
    return ", ".join(scores)


def card_lines(card: Mapping[str, Any]) -> Iterator[Text]:
    """One card, as lines."""
    yield Text("")
    label = "; ".join(note["label"] for note in card.get("notes") or ())
    near = ", ".join(f"{one['feature']} ({one['cosine']:.2f})" for one in card["neighbors"])
    yield Text.assemble((f"feature {card['feature']}", "bold"), f"  {label}".rstrip(), f"  near {near}")
    for note in card.get("notes") or ():
        words = [note["label"], f"({note['by']})" if note["by"] else "", note["text"]]
        yield Text(f"  note    {' '.join(' '.join(words).split())}")
    if (one := card.get("explanation")) is not None:
        yield Text(f"  fires at {one['text']}")
        yield Text(f"           {_scores(one)}")
    if card.get("by_target"):
        yield Text("  norms   " + "  ".join(f"{one['target']} {number(one['norm'])}" for one in card["by_target"]))
    for side, color in (("up", "dark_orange"), ("down", "blue")) if card["up"] else ():
        words = "  ".join(f"{one['token']} {one['logit']:+.2f}" for one in card[side])
        yield Text.assemble(f"  {'raises' if side == 'up' else 'lowers':7}", (words, color))
    for example in card["examples"]:
        line = Text(f"  {number(example['values'][example['at']]):>8}  ")
        for i, (token, value) in enumerate(zip(example["tokens"], example["values"], strict=True)):
            line.append(token, style="bold dark_orange" if i == example["at"] else "dark_orange" if value else "")
        yield line
