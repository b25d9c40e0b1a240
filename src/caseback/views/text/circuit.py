"""A circuit in the terminal: its size, how it was judged, its strongest edges, and how faithful the best edges are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from caseback.reports.circuit import CIRCUIT
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, percent, signed

__all__ = ["print_circuit"]

_LISTED = 12


@checked
def print_circuit(document: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a circuit.

    Parameters
    ----------
    document
        What ``circuit_document`` returns, or the same read from JSON.
    console
        Where to print; by default a new ``rich`` console on standard output.

    Raises
    ------
    CasebackError
        If it is not a circuit document, or cannot be drawn truthfully.

    Examples
    --------
    ::

        print_circuit(circuit_document(model, prompt, circuit))
    """
    console = console or Console()
    with CIRCUIT.drawing(document):
        parts = list(_parts(document))
    for part in parts:
        console.print(part, highlight=False, markup=False, emoji=False, soft_wrap=isinstance(part, Text))


def _parts(document: Mapping[str, Any]):
    size, about = document["size"], document["about"]
    found_by = about.get("found_by") or about.get("method")
    title = f"{document['task'] or 'circuit'} in {visible(document['model']['name'])}"
    yield Text(f"{title}{f', by {found_by}' if found_by else ''}", "bold")
    counts = f"{size['edges']} of {document['total']} edges ({percent(size['share'])}), {size['heads']} heads, "
    neurons = f", {size['neurons']} neurons" if size["neurons"] else ""
    yield Text(f"{counts}{size['mlps']} MLPs{neurons}")
    if document["judgement"] is not None:
        yield from _judgement(document["judgement"])
    members = [edge for edge in document["edges"] if edge["in"]]
    if members:
        yield Text(f"\nStrongest edges{'' if len(members) <= _LISTED else f' ({_LISTED} of {len(members)})'}", "bold")
        table = _table(("edge", "left"), ("score", "right"), ("role", "left"))
        for edge in members[:_LISTED]:
            reader = edge["target"] + (f".{edge['slot']}" if edge["slot"] else "")
            known = document["roles"]
            ends = (edge["source"], edge["target"])
            roles = [known.get(end) or known.get(end.partition("@")[0], "") for end in ends]
            role_text = " → ".join(role or "·" for role in roles) if any(roles) else ""
            table.add_row(
                f"{edge['source']} → {reader}", "" if edge["score"] is None else signed(edge["score"]), role_text
            )
        yield table
    for curve in document["curves"]:
        yield Text(f"\nRecovered by the best edges: {curve['method']}", "bold")
        table = _table(("edges", "right"), ("share", "right"), ("recovered", "right"), ("95 %", "right"))
        columns = ("edges", "fraction", "recovered", "recovered_low", "recovered_high")
        for count, share, value, low, high in zip(*(curve[name] for name in columns), strict=True):
            table.add_row(str(count), percent(share), number(value), f"{number(low)} to {number(high)}")
        yield table
        areas = f"CPR {number(curve['cpr'])}, CMD {number(curve['cmd'])}"
        yield Text(f"{areas}; over the logarithm {number(curve['cpr_log'])}, {number(curve['cmd_log'])}", "dim")
    if document["other"] is not None:
        other = document["other"]
        yield Text(f"\nAgainst {other['name']}", "bold")
        yield Text(
            f"IoU of edges {number(other['iou_edges'])}, of nodes {number(other['iou_nodes'])}; {other['shared']} "
            f"edges shared, {other['only_here']} only here, {other['only_there']} only there"
        )


def _judgement(judgement: Mapping[str, Any]):
    table = _table(
        ("cut edges carry", "left"), ("recovered", "right"), ("95 %", "right"), ("ratio", "right"), ("|diff|", "right")
    )
    for row in judgement["faithfulness"]:
        interval = f"{number(row['recovered_low'])} to {number(row['recovered_high'])}"
        table.add_row(
            row["ablation"], number(row["recovered"]), interval, number(row["ratio"]), number(row["difference"])
        )
    yield table
    groups = list(judgement["groups"].items())
    if len(groups) > 1:
        (worst, lowest), (best, highest) = groups[0], groups[-1]
        shares = f"{worst} (recovered {number(lowest)}), the best {best} ({number(highest)})"
        yield Text(f"of {len(groups)} groups of prompts, the worst is {shares}")
    if "completeness" in judgement:
        gap = judgement["completeness"]
        share, without = number(gap["worst_share"]), gap["worst_set"]
        yield Text(f"completeness: widest gap {share} of the effect, without {without}")
    if "minimality" in judgement:
        needs = judgement["minimality"]
        least = needs["share"][needs["least_part"]]
        yield Text(f"minimality: the least needed node is {needs['least_part']}, {number(least)} of the effect")
    for caveat in judgement["caveats"]:
        yield Text(f"! {caveat}", "yellow")
    if judgement.get("left_out"):
        left_out = ", ".join(f"{name} ({why})" for name, why in judgement["left_out"].items())
        yield Text(f"not judged: {left_out}; --judge full does all, --judge SECONDS what fits", "dim")


def _table(*columns: tuple[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title, justify in columns:
        table.add_column(title, justify=justify, no_wrap=True)
    return table
