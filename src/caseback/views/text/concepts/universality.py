"""Two models' units in the terminal: how many both have beside the control, by layer, the strongest, families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from caseback.reports.concepts.universality import UNIVERSALITY
from caseback.reports.document import Document, checked, drawn_from
from caseback.views.numbers_text import number, percent

__all__ = ["print_universality", "universal_words"]


@checked
def print_universality(document: Document, *, console: Console | None = None) -> None:
    """Print what ``universality_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with UNIVERSALITY.drawing(document):
        console.print(universal_words(document), highlight=False, markup=False)
        sort, alike, families = document["units"]["sort"], document["similarity"], document["families"]
        rows = [
            [str(row["layer"]), str(row["n"]), *map(number, (row["correlation"], row["control"]))]
            + [percent(row["universal"])]
            for row in document["layers"]
        ]
        _print(console, ["layer", f"{sort}s", "r, mean", "rotated", "universal"], rows)
        strongest = [
            [one["unit"], one["nearest"], *(number(one[name]) for name in ("correlation", "control", "excess"))]
            for one in document["strongest"]
        ]
        _print(console, [sort, "nearest", "r", "rotated", "excess"], strongest)
        if families is not None:
            rows = [
                [row["family"], *(f"{row[name]:.0f}" for name in ("n", "n_universal"))]
                + [_number(row[name]) for name in ("excess", "rest")]
                + [_share(row[name]) for name in ("both", "chance")]
                for row in families["rows"]
            ]
            heads = ["family", "n", "universal", "excess", "like ones", "match too", "by chance"]
            _print(console, heads, rows)
            if families["missing"]:
                console.print(f"not looked for: {families['missing']}", highlight=False, markup=False)
        if alike is not None:
            rows = []
            for layer, own, chance in zip(alike["layer"], alike["similarity"], alike["chance"], strict=True):
                known = [(value, i) for i, value in enumerate(own) if value is not None]
                if known:
                    value, at = max(known)
                    rows.append([str(layer), str(alike["layer_to"][at]), number(value), _number(chance[at])])
            _print(console, ["layer", "most like", "CKA", "by chance"], rows)


@checked
@drawn_from("a document of two models' units", "universality_document")
def universal_words(document: Mapping[str, Any]) -> str:
    """How many units both models have, beside the control, in sentences.

    Examples
    --------
    >>> universal = {"share": 0.02, "bound": 0.5, "correlation": 0.61, "control": 0.48}
    >>> units = {"sort": "neuron", "n": 512, "tokens": 9000}
    >>> universal_words({"model": {"name": "a"}, "other": "b", "units": units, "universal": universal, "layers": []})
    '10 of 512 neurons of a are universal (2.0%): they correlate with a neuron of b by more than 0.50 beyond what ...
    """
    units, universal = document["units"], document["universal"]
    sort, share = units["sort"], universal["share"]
    full = [str(row["layer"]) for row in document["layers"] if row["control"] >= 1 - universal["bound"]]
    ceiling = (
        f" Rotated ones already correlate by {1 - universal['bound']:.2f} or more in the mean of layer "
        f"{', '.join(full)}, where hardly any {sort} can pass that."
        if full
        else ""
    )
    return (
        f"{round(share * units['n']):,} of {units['n']:,} {sort}s of {document['model']['name']} are universal "
        f"({percent(share)}): they correlate with a {sort} of {document['other']} by more than "
        f"{number(universal['bound'])} beyond what its layers give when rotated at random. Median r "
        f"{number(universal['correlation'])}, rotated {number(universal['control'])}; {units['tokens']:,} tokens."
        f"{ceiling}"
    )


def _print(console: Console, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for i, title in enumerate(heads):
        table.add_column(title, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)


def _number(value: float | None) -> str:
    return "–" if value is None else number(value)


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)
