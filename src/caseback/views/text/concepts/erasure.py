"""An erasure in the terminal: per place how well probes read the label before and after, and what the model lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from caseback.reports.concepts.erasure import ERASURE
from caseback.reports.document import Document, checked
from caseback.views.numbers_text import number, percent, signed

__all__ = ["print_erasure"]

_METRICS = {
    "kl": "KL of the next token from the clean run, in nats; of what stands beside it the middle 95 %:",
    "loss": "change of the loss of all tokens ({clean} nats), in nats; of what stands beside it the middle 95 %:",
}


@checked
def print_erasure(document: Document, *, console: Console | None = None) -> None:
    """Print what ``erasure_report`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with ERASURE.drawing(document):
        texts = document["texts"]
        classes = ", ".join(f"{label} {n}" for label, n in texts["classes"].items())
        console.print(
            f"{document['model']['name']}: {document['method']}, {texts['count']} texts ({classes}), of which "
            f"{texts['held_out']} were held out; the majority class is right on {percent(document['majority'])}",
            highlight=False,
            markup=False,
        )
        probes = _table("place", "read before", "and after", "95 %", "rank", "variance removed")
        names = list(document["places"][0]["effects"])
        effects = _table("place", *(name.replace("random of equal variance", "of equal variance") for name in names))
        for row in document["places"]:
            read = (percent(row[key]) for key in ("before", "after"))
            band = f"{percent(row['low'])} to {percent(row['high'])}"
            probes.add_row(row["place"], *read, band, str(row["rank"]), percent(row["removed"]))
            effects.add_row(row["place"], *_effects(row["effects"]))
        if document["together"] is not None:
            effects.add_row("all of them", *_effects(document["together"]))
        console.print(probes)
        console.print(_METRICS[document["metric"]].format(clean=number(document["clean"])), highlight=False)
        console.print(effects)


def _table(first: str, *titles: str) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column(first, no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right")
    return table


def _effects(of: Mapping[str, Any]) -> list[str]:
    return [" to ".join(map(number, value)) if isinstance(value, list) else signed(value) for value in of.values()]
