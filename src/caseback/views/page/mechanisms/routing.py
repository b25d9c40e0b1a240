"""Attention to MLP routing, as one HTML page that opens offline: pairs beside their controls, heads by MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseback.reports.concepts.routing import ROUTING
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import percent
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, layer_map, lead, note, rows_table
from caseback.views.page.page import Page
from caseback.views.text.concepts.routing import routing_words

__all__ = ["routing_html"]

LISTED = 20


@checked
def routing_html(document: Mapping[str, Any]) -> str:
    """A document of routing as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.routing.routing_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"routing · {document['model']['name']}"


def _body(document: Mapping[str, Any]) -> str:
    counts, how = document["counts"], document["how"]
    words = routing_words(document)
    stands = "its mean" if how["ablation"] == "mean" else "nothing"
    return frame(
        document,
        "Which neurons fire only where {} has written?",
        "a head",
        lead(f"{words[:1].upper()}{words[1:]}."),
        note(
            f"A head's write is taken out of what one MLP reads, and out of nothing else; {stands} stands for it, and "
            f"the norm before the MLP is {how['norm']}. A neuron fires past {percent(how['threshold'])} of its largest "
            f"activation. Pairs were chosen on {counts['tokens_chosen']} other tokens, among neurons that fire at "
            f"{counts['least']} of these or more."
        ),
        *(_pairs(document) if document["pairs"] else ()),
        "<h2>All heads</h2>",
        note(
            "Of each MLP's neurons the share of which half the firing or more is lost without one head, on the texts "
            "that pairs were chosen on; in a cell the head of the largest share."
        ),
        _map(document),
        rows_table(
            ["head", *(f"MLP {row['layer']}" for row in document["layers"])],
            [(row["head"], [cell(_share(share)) for share in row["routed"]]) for row in _largest(document)],
        ),
    )


def _pairs(document: Mapping[str, Any]) -> list[str]:
    pairs = document["pairs"]
    return [
        "<h2>Heads and their neurons</h2>",
        note(
            "Lost: of the held-out tokens where the neuron fires, the share where it no longer does without the head, "
            "with the lower end of its interval. Beside it the largest share without another head of that layer, and "
            "of another neuron without that head. Each text ends where the neuron fires. Faint: not above both bands."
        ),
        rows_table(
            ["head → neuron", "lost", "tokens", "r", "another head", "another neuron", "fires at", "head attends to"],
            [
                (
                    f"{pair['head']} → {pair['neuron']}",
                    [
                        cell(_share(pair["lost"]), small=f"≥ {_share(pair['low'])}"),
                        cell(str(pair["fires"])),
                        cell("–" if pair["r"] is None else f"{pair['r']:.2f}"),
                        *(cell(_share(pair[name])) for name in ("other_head", "matched")),
                        *(cell(visible(pair[name]), more="class='words'") for name in ("context", "attended")),
                    ],
                )
                for pair in pairs
            ],
            faint=[not pair["above"] for pair in pairs],
        ),
    ]


def _map(document: Mapping[str, Any]) -> str:
    cells = [
        {"name": row["head"], "site": f"MLP {of['layer']}", "layer": int(layer), "head": int(head), "share": share}
        for row in document["heads"]
        for of, share in zip(document["layers"], row["routed"], strict=True)
        for layer, head in [row["head"][1:].split("H")]
        if share is not None
    ]
    shares = [row["share"] for row in cells]
    return layer_map(cells, shares, "share of neurons", full=max([*shares, 1e-9])) if cells else ""


def _largest(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Heads of the largest shares, in the model's order."""
    best = lambda row: max((share for share in row["routed"] if share is not None), default=0.0)  # noqa: E731
    some = sorted(document["heads"], key=best, reverse=True)[:LISTED]
    return [row for row in document["heads"] if row in some]


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


PAGE = Page(ROUTING, _title, _body, ("page", "concept"))
