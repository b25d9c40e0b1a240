"""How dictionaries' training went, in the terminal: a line each, with a sparkline of the variance explained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from caseback.reports.concepts.training import TRAINING
from caseback.reports.document import checked
from caseback.views.numbers_text import number, percent

__all__ = ["print_training"]


@checked
def print_training(document: Mapping[str, Any], console: Console | None = None) -> None:
    """Print how a training ended, dictionary by dictionary.

    Parameters
    ----------
    document
        What ``training_document`` returns.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.

    Raises
    ------
    CasebackError
        If it is not a document of a training, or cannot be drawn truthfully.

    Examples
    --------
    ::

        print_training(training_document(model, trained))
    """
    console = console or Console()
    with TRAINING.drawing(document):
        lines = list(_lines(document))
    for line in lines:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _lines(document: Mapping[str, Any]) -> Iterator[Text]:
    width = max(len(one["name"]) for one in document["dictionaries"])
    yield Text(f"{'':{width}} {'features':>8} {'tokens':>10} {'explained':>9} {'active':>7} {'dead':>6}")
    for one in document["dictionaries"]:
        last = {name: values[-1] for name, values in one["curve"].items()}
        yield Text.assemble(
            (f"{one['name']:{width}}", "bold"),
            f" {one['n_features']:8} {last['tokens']:10,.0f} {percent(last['explained']):>9} {number(last['l0']):>7}",
            f" {percent(last['dead']):>6}",
        )
    yield Text(
        "explained: the share of the last step's variance; measure dictionaries on other text before trusting it"
    )
