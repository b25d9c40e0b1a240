"""Directions as one HTML page that opens offline: where they tell a label, and matrices of how far they agree.

Orange is a cosine above 0, blue one below; layers run upwards, and names never become markup.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from caseback.reports.concepts.directions import DIRECTIONS
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, signed
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, layer_map, lead, note, rows_table, signed_class, tone_key
from caseback.views.page.page import Page

__all__ = ["directions_html"]

_OF = {"write": "What is written", "detect": "What detects"}
_NUMBERED = 10
"""Matrices of more places have no numbers in their cells."""


@checked
def directions_html(document: Mapping[str, Any]) -> str:
    """A document of directions as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.directions.directions_report`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"directions of {visible(document['label'])} · {visible(document['model']['name'])}"


def _body(document: Mapping[str, Any]) -> str:
    ways, places, split = document["ways"], document["places"], document["split"]
    first = document["table"][ways[0]]
    best = max(range(len(places)), key=lambda i: (first["auroc"][i], first["separation"][i]))
    negative, positive = (visible(name) for name in document["classes"])
    chance = [f"{first[name][best]:.3f}" for name in ("shuffled", "random")]
    words = (
        f"From {negative} to {positive}, read at {document['read']}. Found on {split['n_train']} texts; of "
        f"{split['n_test']} that were held out, {_way(ways[0])} tells the labels apart best at "
        f"{places[best]['name']}: AUROC {first['auroc'][best]:.3f}, where directions for shuffled labels have "
        f"{chance[0]} and random ones {chance[1]}. Two random directions of this width have a cosine below "
        f"{number(document['by_chance'])} in 95 of 100 draws; those of real streams are larger."
    )
    parts = [lead(words)]
    drawn = layer_map(places, first["auroc"], f"AUROC, {_way(ways[0])}", empty=0.5)
    if drawn:
        parts.append(f"<h2>Where it is told</h2>{drawn}")
    if len(ways) > 1:
        parts += [f"<h2>Ways at {html.escape(places[best]['name'])}</h2>", _ways(document, best)]
    if len(places) > 1:
        parts += [f"<h2>Over places, by {_way(ways[0])}</h2>", _places(document)]
    parts.append(f"<h2>Every place</h2>{_table(document)}")
    parts.append(
        note(
            "Each cell but the first of a way: its AUROC; small: its cosine with the first way, of what is written. "
            "Ways may agree in what they write and not in what detects: where features are correlated, a read-out "
            "leans away from what else varies."
        )
    )
    return frame(document, "Along what does {} vary?", visible(document["label"]), *parts)


def _way(way: str) -> str:
    return html.escape(way.replace("_", " "))


def _ways(document: Mapping[str, Any], best: int) -> str:
    names = [_way(way) for way in document["ways"]]
    both = "".join(_matrix(names, document["agreement"][of][best], words, numbers=True) for of, words in _OF.items())
    return f"<div class='beside'>{both}</div>{tone_key('cosine', '', -1.0, 1.0)}"


def _places(document: Mapping[str, Any]) -> str:
    places, cosines = document["places"], document["over_places"]
    of_one_site = len({place["site"] for place in places}) == 1 and all(place["head"] is None for place in places)
    names = [str(place["layer"]) if of_one_site else place["name"] for place in places]
    numbers = len(names) <= _NUMBERED
    end = f", by layer of {places[0]['site']}" if of_one_site else ""
    # the mean difference's two vectors are one
    shown = {"write": f"{_OF['write']} and detects"} if cosines["write"] == cosines["detect"] else _OF
    both = "".join(_matrix(names, cosines[of], words + end, numbers=numbers) for of, words in shown.items())
    return f"<div class='beside'>{both}</div>{tone_key('cosine', '', -1.0, 1.0)}"


def _matrix(names: Sequence[str], cosines: Sequence[Sequence[float]], words: str, *, numbers: bool) -> str:
    """Cosines of things with each other, the first thing at the bottom left."""
    head = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in names)
    lines = []
    for i in reversed(range(len(names))):
        cells = [
            cell(
                f"{x:.2f}".replace("-", "−") if numbers else "",
                more=f"class='{signed_class(x)}'",
                title=f"{names[i]}, {other}: {signed(x)}",
            )
            for other, x in zip(names, cosines[i], strict=True)
        ]
        lines.append(f"<tr><th scope='row'>{html.escape(names[i])}</th>{''.join(cells)}</tr>")
    return (
        f"<div class='sideways'><table class='map{'' if numbers else ' dense'}'><caption>{html.escape(words)}</caption>"
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _table(document: Mapping[str, Any]) -> str:
    ways, table = document["ways"], document["table"]
    lines = []
    for i in reversed(range(len(document["places"]))):
        cells = []
        for k, way in enumerate(ways):
            cosine = "" if k == 0 else signed(document["agreement"]["write"][i][0][k])
            cells.append(cell(f"{table[way]['auroc'][i]:.3f}", small=cosine))
        cells += [cell(f"{table[ways[0]][name][i]:.3f}") for name in ("shuffled", "random")]
        cells.append(cell(number(table[ways[0]]["length"][i])))
        lines.append((document["places"][i]["name"], cells))
    heads = ["", *(way.replace("_", " ") for way in ways), "shuffled labels", "random", "length in state lengths"]
    return rows_table(heads, lines)


PAGE = Page(DIRECTIONS, _title, _body, ("page", "concept"))
