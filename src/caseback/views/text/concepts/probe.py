"""Probes in the terminal: a bar of accuracy for each place, its interval, and the same for what it is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from caseback.reports.concepts.probe import PROBES
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number
from caseback.views.text.bars import ASCII, UNICODE, Glyphs, share_bar

__all__ = ["print_probe"]

_WIDTH = 24


@checked
def print_probe(document: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the probes of a document, the deepest layer first.

    Parameters
    ----------
    document
        What ``probe_document`` returns.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.

    Raises
    ------
    CasebackError
        If it is not a document of probes, or cannot be drawn truthfully.

    Examples
    --------
    ::

        print_probe(probe_document(model, probe))
    """
    console = console or Console()
    with PROBES.drawing(document):
        lines = list(_lines(document, ASCII if console.options.ascii_only else UNICODE))
    for line in lines:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _lines(document: Mapping[str, Any], glyphs: Glyphs) -> Iterator[Text]:
    split, classes = document["split"], document["classes"]
    shown = ", ".join(visible(c) for c in classes[:4]) + (f" and {len(classes) - 4} more" if len(classes) > 4 else "")
    model = visible(document["model"]["name"])
    yield Text(glyphs.text(f"{visible(document['label'])} ({shown}) in {model}, {document['method']} probe"), "bold")
    yield Text(
        glyphs.text(
            f"accuracy on {split['n_test']} examples that were held out, fitted to {split['n_train']}; "
            f"read at {document['read']}; the commonest class alone: {number(document['majority'])}"
        ),
        "dim",
    )
    rows = [*reversed(document["places"]), *document["baselines"]]
    width = max(len(row["name"]) for row in rows)
    yield Text(f"{'':{width}}  {'':{_WIDTH}}  accuracy  95 %         shuffled  on training", "dim")
    for i, row in enumerate(rows):
        if i == len(document["places"]):
            yield Text("compared with", "dim")
        yield _row(row, width, glyphs)


def _row(row: Mapping[str, Any], width: int, glyphs: Glyphs) -> Text:
    line = Text(glyphs.text(f"{row['name']:{width}}  "))
    bar = share_bar(row["accuracy"], _WIDTH, glyphs)
    line.append(bar)
    line.append(" " * (_WIDTH - len(bar.plain)))
    interval = f"{row['low']:.3f}-{row['high']:.3f}"
    line.append(f"  {row['accuracy']:8.3f}  {interval:11}  {row['shuffled']:8.3f}  {row['train_accuracy']:11.3f}")
    if "selectivity" in row:
        line.append(glyphs.text(f"  selectivity {row['selectivity']:+.3f}"))
    return line
