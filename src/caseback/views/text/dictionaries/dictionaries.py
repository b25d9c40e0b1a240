"""What dictionaries are worth, in the terminal: a table with a row for each, and the random ones beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from caseback.reports.dictionaries.dictionaries import DICTIONARIES
from caseback.reports.document import checked
from caseback.views.numbers_text import number, percent, signed

__all__ = ["print_dictionaries"]

COLUMNS = (
    ("l0", "active", number),
    ("explained_variance", "explained", percent),
    ("ce_increase", "+ CE", signed),
    ("ce_recovered", "recovered", percent),
    ("kl_ratio", "KL / random", number),
    ("dead_share", "silent", percent),
)


@checked
def print_dictionaries(document: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the measures of dictionaries.

    Parameters
    ----------
    document
        What ``dictionaries_document`` returns.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.

    Raises
    ------
    CasebackError
        If it is not a document of measured dictionaries, or cannot be drawn truthfully.

    Examples
    --------
    ::

        print_dictionaries(dictionaries_document(model, {"mine": dictionary}, texts))
    """
    console = console or Console()
    with DICTIONARIES.drawing(document):
        lines = list(_lines(document))
    for line in lines:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _lines(document: Mapping[str, Any]) -> Iterator[Text]:
    yield Text(
        f"{document['model']['name']}: {document['tokens']:,} tokens, without {document['skipped']}; its own loss is "
        f"{document['ce_clean']:.3f} nats"
    )
    width = max(len(row["name"]) for row in document["rows"])
    yield Text(f"{'':{width}} " + " ".join(f"{title:>11}" for _, title, _ in COLUMNS))
    for row in document["rows"]:
        cells = " ".join(f"{'—' if row[key] is None else shown(row[key]):>11}" for key, _, shown in COLUMNS)
        mark = " *" if row["frontier"] else ""
        yield Text(f"{row['name']:{width}} {cells}{mark}", style="" if row["kind"] == "trained" else "dim")
    yield Text(
        f"explained: {document['definition']}. + CE: what the loss of the next token gains when the reconstruction "
        "stands in for the states; recovered: its share of what zeros cost. KL / random: against errors as long in "
        "random directions. *: no other of its site has fewer active and a smaller loss."
    )
    for one in document.get("shared") or ():
        yield Text(f"{one['name']}: {shared_words(one)}")
    if (moved := document.get("attributes")) is not None:
        yield Text("")
        yield from _moved(moved)
    if (forgotten := document.get("forgotten")) is not None:
        yield Text("")
        yield from _forgotten(forgotten)


def shared_words(one: Mapping[str, Any]) -> str:
    """How many features of a crosscoder are of which sources."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in one["kinds"].items())
    return f"by their rows {kinds}; {one['exclusive']:,} are of one source alone by the states too (latent scaling)"


def _moved(moved: Mapping[str, Any]) -> Iterator[Text]:
    """Ways to move one attribute, by cause and isolation."""
    yield Text(
        f"{moved['attribute']} moved at {moved['site']}, {', '.join(moved['others'])} left alone: searched on "
        f"{moved['trained']} examples, judged on {moved['judged']} of other entities"
    )
    width = max(len(row["name"]) for row in moved["rows"])
    yield Text(f"{'':{width}} {'cause':>10} {'isolation':>10} {'both':>10} {'swapped':>8}")
    for row in moved["rows"]:
        shares = " ".join(f"{percent(row[key]):>10}" for key in ("cause", "isolation", "disentangle"))
        yield Text(f"{row['name']:{width}} {shares} {row['size']:8}")


def _forgotten(forgotten: Mapping[str, Any]) -> Iterator[Text]:
    """What is forgotten where enough is retained, and the setting at which most is."""
    yield Text(
        f"of {forgotten['forget_questions']} questions forgotten where {percent(forgotten['least_retained'])} of "
        f"{forgotten['retain_questions']} others are still answered"
    )
    width = max(len(row["name"]) for row in forgotten["rows"])
    for row in forgotten["rows"]:
        most = max(row["settings"], key=lambda one: one["forgotten"])
        score = "—" if row["score"] is None else percent(row["score"])
        yield Text(
            f"{row['name']:{width}} {score:>6}   at most {percent(most['forgotten'])}, {percent(most['retained'])} "
            f"retained: {most['k']} features, strength {number(most['strength'])}"
        )
