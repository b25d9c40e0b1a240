"""The graph behind a prediction as one HTML page that opens offline: by layer and position, with sliders and cards."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from caseback.reports.graph import GRAPH
from caseback.reports.graphs.paths import effects, strongest_paths
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, percent, signed
from caseback.views.page.data import column, rounded
from caseback.views.page.kit.tables import table
from caseback.views.page.page import Page

_LISTED = 60  # nodes, and edges, of the tables
_SPACE = "␣"


def _title(document: Mapping[str, Any]) -> str:
    targets = " ".join(visible(target["text"]) for target in document["targets"])
    return f"what leads to {targets or 'a prediction'} · {visible(document['model']['name'])}"


def _texts(document: Mapping[str, Any]) -> Iterator[str]:
    """Every token's text that the page shows."""
    for name in ("tokens", "predictions", "targets"):
        yield from (token["text"] for token in document[name])
    nodes = document["nodes"]
    yield from nodes["text"]
    for words in nodes["words"]:
        if words is not None:
            yield from (*words["up"], *words["down"])
    for examples in nodes["examples"]:
        for example in examples or ():
            yield from example["tokens"]


def _data(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document as the script reads it: also how nodes bear on the targets, and texts that must be made visible.

    Edges are most of a graph, so that their columns are bytes: weights of six digits, shares, which sliders compare, in
    thousandths, and heads in whole percentages. Texts in which spaces alone are marked are left to the script.
    """
    seen = {text: visible(text) for text in dict.fromkeys(_texts(document)) if text}
    shown = {text: marked for text, marked in seen.items() if marked != text.replace(" ", _SPACE)}
    given = document["edges"]
    edges = {
        **{name: column(given[name]) for name in ("source", "target")},
        "weight": column(given["weight"], digits=6),
        "share": column(given["share"], per=1000),
        "heads": _heads(given["heads"]),
    }
    return rounded({**document, "edges": edges} | {"effects": effects(document), "visible": shown})


def _heads(heads: Sequence[Sequence[tuple[str, float]] | None]) -> dict[str, Any]:
    """The heads of all edges as columns: how many each edge has (-1: no attention), which, and their percentages."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(name for own in heads for name, _ in own or ()))}
    shown = [own and [(name, round(100 * share)) for name, share in own if round(100 * share)] for own in heads]
    return {
        "names": list(numbers),
        "count": column([-1 if own is None else len(own) for own in shown]),
        "head": column([numbers[name] for own in shown for name, _ in own or ()]),
        "percent": column([share for own in shown for _, share in own or ()]),
    }


def _tables(document: Mapping[str, Any]) -> str:
    nodes, edges, model = document["nodes"], document["edges"], visible(document["model"]["name"])
    names = [
        f"{name} {visible(text)}" if text else name for name, text in zip(nodes["name"], nodes["text"], strict=True)
    ]
    prompt = "".join(visible(token["text"]) for token in document["tokens"])
    targets = [
        (
            visible(target["text"]),
            "" if target["probability"] is None else percent(target["probability"]),
            signed(target["weight"]),
        )
        for target in document["targets"]
    ]
    strongest = sorted(range(len(names)), key=lambda i: -nodes["influence"][i])[:_LISTED]
    heaviest = sorted(range(len(edges["weight"])), key=lambda e: -abs(edges["weight"][e]))[:_LISTED]
    scores = [(score["name"], number(score["value"]), score["words"]) for score in document["scores"]]
    tried = [
        (row["name"], number(row["factor"]), signed(row["predicted"]), signed(row["measured"]))
        for row in document["interventions"]
    ]
    words = (nodes["words"][i] or {"up": [], "down": []} for i in strongest)
    parts = [
        table("What it explains", ("token", "probability", "weight"), targets),
        table("Scores", ("score", "value", "meaning"), scores) if scores else "",
        table(
            f"The most influential of {len(names)} nodes",
            ("node", "influence", "raises or reads as", "lowers"),
            [
                (names[i], number(nodes["influence"][i]), *(" ".join(map(visible, own[way])) for way in ("up", "down")))
                for i, own in zip(strongest, words, strict=True)
            ],
        ),
        table(
            f"The heaviest of {len(edges['weight'])} edges",
            ("from", "to", "weight", "heads"),
            [
                (
                    names[edges["source"][e]],
                    names[edges["target"][e]],
                    signed(edges["weight"][e]),
                    ", ".join(f"{name} {percent(abs(share))}" for name, share in edges["heads"][e] or ()),
                )
                for e in heaviest
            ],
        ),
        table(
            "The strongest paths",
            ("path", "strength"),
            [(" → ".join(names[i] for i in path.nodes), signed(path.strength)) for path in strongest_paths(document)],
        ),
        table(
            "Why heads look where they look",
            ("head", "from", "to", "attention", "pairs"),
            [
                (
                    row["head"],
                    *(f"{visible(document['tokens'][row[end]]['text'])} {row[end]}" for end in ("query", "key")),
                    percent(row["pattern"]),
                    ", ".join(f"{one} × {other} {signed(value)}" for one, other, value in row["pairs"]),
                )
                for row in document["attention"]
            ],
        )
        if document.get("attention")
        else "",
        table("Interventions", ("what", "times", "predicted", "measured"), tried) if tried else "",
    ]
    warnings = "".join(f"<li>{html.escape(text)}</li>" for text in document["warnings"])
    return (
        f"<h1>{html.escape(_title(document))}</h1><p>{html.escape(model)} on <bdi>{html.escape(prompt)}</bdi>, by "
        f"{html.escape(document['about']['method'])}. The graph itself needs JavaScript.</p><ul>{warnings}</ul>"
        + "".join(parts)
    )


PAGE = Page(GRAPH, _title, _tables, ("page", "circuit", "features", "graph"), script="graph", data=_data)
