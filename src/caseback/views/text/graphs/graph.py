"""The graph behind a prediction in the terminal: scores, warnings, the strongest nodes of each layer and paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from caseback.reports.document import checked
from caseback.reports.graph import GRAPH
from caseback.reports.graphs.paths import effects, strongest_paths
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, percent, signed
from caseback.views.text.colors import SIGNED

__all__ = ["print_graph"]

_LISTED = 40  # nodes, if every layer has one
_IN_A_LAYER = 4
_UNLISTED = ("embed", "pos_embed", "logits", "stream_mid")


@checked
def print_graph(document: Mapping[str, Any], console: Console | None = None, *, top: int = 5) -> None:
    """Print a graph.

    Parameters
    ----------
    document
        What ``graph_document`` returns, or the same read from JSON.
    console
        Where to print; by default a new ``rich`` console on standard output.
    top
        How many paths are listed.

    Raises
    ------
    CasebackError
        If it is no graph document, or cannot be drawn truthfully.

    Examples
    --------
    ::

        print_graph(flow_graph_document(model, "Mary gave the ball to"))
    """
    console = console or Console()
    with GRAPH.drawing(document):
        parts = list(_parts(document, top))
    for part in parts:
        console.print(part, highlight=False, markup=False, emoji=False, soft_wrap=isinstance(part, Text))


def _parts(document: Mapping[str, Any], top: int) -> Iterator[Text | Table]:
    nodes, edges, about = document["nodes"], document["edges"], document["about"]
    has_sign = about.get("signed") is not False
    chances = ["" if t["probability"] is None else f" ({percent(t['probability'])})" for t in document["targets"]]
    targets = [visible(t["text"]) + chance for t, chance in zip(document["targets"], chances, strict=True)]
    yield Text(f"What leads to {', '.join(targets) or 'this prediction'}, by {about['method']}", "bold")
    prompt = "".join(visible(token["text"]) for token in document["tokens"])
    yield Text(f"{visible(document['model']['name'])} on {prompt}")
    yield Text(f"{len(nodes['name'])} nodes, {len(edges['weight'])} edges")
    for score in document["scores"]:
        yield Text(f"{score['name']} {number(score['value'])}: {score['words']}")
    for warning in document["warnings"]:
        yield Text(f"! {warning}", "yellow")
    value = effects(document)
    layers: dict[int, list[int]] = {}
    for i, (kind, layer) in enumerate(zip(nodes["kind"], nodes["layer"], strict=True)):
        if kind not in _UNLISTED:
            layers.setdefault(layer, []).append(i)
    if layers:
        yield Text("\nThe most influential nodes of each layer", "bold")
        table = _table(("layer", "right"), ("node", "left"), ("influence", "right"), ("reads as, or raises", "left"))
        each = max(1, min(_IN_A_LAYER, _LISTED // len(layers)))
        for layer in sorted(layers, reverse=True):
            best = sorted(layers[layer], key=lambda i: -nodes["influence"][i])[:each]
            for at, i in enumerate(best):
                words = nodes["words"][i]
                style = SIGNED[value[i] > 0] if has_sign and value[i] and nodes["kind"][i] != "error" else ""
                up = " ".join(map(visible, words["up"][:4])) if words else visible(nodes["text"][i] or " ")
                table.add_row(
                    "" if at else str(layer), Text(_name(document, i), style), number(nodes["influence"][i]), up
                )
        yield table
    paths = strongest_paths(document, top)
    if paths:
        yield Text("\nThe strongest paths", "bold")
        for path in paths:
            style = SIGNED[path.strength > 0] if has_sign else ""
            steps = " → ".join(_steps(document, path.nodes))
            strength = signed(path.strength) if has_sign else number(path.strength)
            yield Text.assemble((f"{strength:>7}", style), f"  {steps}")
    if document.get("attention"):
        yield Text.assemble(
            ("\nWhy heads look where they look", "bold"),
            ": their scores, and what pairs of nodes make of them, one at the query and one at the key",
        )
        for row in document["attention"]:
            query, key = (f"{visible(document['tokens'][row[end]]['text'])} {row[end]}" for end in ("query", "key"))
            looks = f"{row['head']} at {query} looks at {key} ({percent(row['pattern'])})"
            above = "" if row.get("centered") is False else " above the mean over keys"
            yield Text(f"{looks}: score {signed(row['score'])}{above}")
            for one, other, value in row["pairs"][:3]:
                yield Text(f"  {signed(value):>7}  {one} × {other}")
    if document["interventions"]:
        yield Text("\nInterventions", "bold")
        table = _table(("what", "left"), ("times", "right"), ("predicted", "right"), ("measured", "right"))
        for row in document["interventions"]:
            changes = (signed(row["predicted"]), signed(row["measured"]))
            table.add_row(row["name"], number(row["factor"]), *changes)
        yield table


def _name(document: Mapping[str, Any], i: int) -> str:
    name, pos = document["nodes"]["name"][i], document["nodes"]["pos"][i]
    return name if pos is None else f"{name} {visible(document['tokens'][pos]['text'])}"


def _steps(document: Mapping[str, Any], path: tuple[int, ...]) -> Iterator[str]:
    """The nodes of a path; of streams only those where it comes from another position, or from an MLP."""
    kinds, places = document["nodes"]["kind"], document["nodes"]["pos"]
    for at, i in enumerate(path):
        before, after = path[max(0, at - 1)], path[min(len(path) - 1, at + 1)]
        if kinds[i] in ("stream", "stream_mid") and places[before] == places[i] == places[after]:
            continue
        yield _name(document, i)


def _table(*columns: tuple[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title, justify in columns:
        table.add_column(title, justify=justify, no_wrap=True)
    return table
