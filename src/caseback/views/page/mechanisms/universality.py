"""Two models' units as one HTML page that opens offline: which both have, beside the other model rotated."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from caseback.reports.concepts.universality import UNIVERSALITY
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, percent
from caseback.views.page.kit.curve_svg import curve_svg
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table
from caseback.views.page.page import Page
from caseback.views.text.concepts.universality import universal_words

__all__ = ["universality_html"]


@checked
def universality_html(document: Mapping[str, Any]) -> str:
    """A document of two models' units as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.universality.universality_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"{visible(str(document['model']['name']))} and {visible(str(document['other']))}"


def _body(document: Mapping[str, Any]) -> str:
    sort, ranks = document["units"]["sort"], document["ranks"]
    families, alike = document["families"], document["similarity"]
    chart = curve_svg(
        f"correlation of the {sort}s with their nearest, the largest first",
        [100 * share for share in ranks["share"]],
        ranks["correlation"],
        beside=ranks["control"],
    )
    parts = [
        lead(universal_words(document)),
        "<h2>All units beside the control</h2>",
        note(_RANKS.format(sort=sort)),
        f"<figure class='chart'><h3>|r| by percent of the {sort}s</h3>{chart}</figure>",
        "<h2>By layer</h2>",
        _layers(document),
        "<h2>The strongest</h2>",
        _strongest(document["strongest"], sort),
    ]
    if families is not None:
        parts += ["<h2>Families</h2>", note(_FAMILIES), _families(families["rows"])]
        if families["missing"]:
            parts.append(
                note(f"Not looked for, since the text or a treebank does not allow it: {families['missing']}.")
            )
    if alike is not None:
        parts += ["<h2>Layers</h2>", note(_SIMILARITY), _similarity(alike)]
    return frame(document, f"Which {sort}s does {{}} have too?", visible(str(document["other"])), *parts)


_RANKS = (
    "The largest |r| of each {sort} with any of the other model, sorted; dashed, the same with the other model's "
    "activations rotated at random within each layer, which leaves the layer what it carries and takes its units away."
)
_FAMILIES = (
    "Neurons with the label of a kind of the family in the atlas of this text, and how many of them are universal; "
    "their mean excess beside that of neurons of their layers without the label; how often the nearest neuron has the "
    "label too, beside any neuron of its layer."
)
_SIMILARITY = (
    "Linear CKA of each layer (down) with each of the other model (across); 1 for layers that differ by a rotation and "
    "a scale. Small: its mean where tokens are paired at random."
)


def _layers(document: Mapping[str, Any]) -> str:
    rows = [
        (
            str(row["layer"]),
            [cell(f"{row['n']:,}"), *(cell(number(row[name])) for name in ("correlation", "control"))]
            + [cell(percent(row["universal"]))],
        )
        for row in document["layers"]
    ]
    return rows_table(["layer", f"{document['units']['sort']}s", "mean r", "rotated", "universal"], rows)


def _strongest(units: Sequence[Mapping[str, Any]], sort: str) -> str:
    rows = [
        (one["unit"], [cell(one["nearest"]), *(cell(number(one[n])) for n in ("correlation", "control", "excess"))])
        for one in units
    ]
    return rows_table([sort, "nearest", "r", "rotated", "excess"], rows)


def _families(families: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            row["family"],
            [cell(f"{row['n']:.0f}", small=f"{row['n_universal']:.0f} universal")]
            + [cell("–" if row[name] is None else number(row[name])) for name in ("excess", "rest")]
            + [cell("–" if row[name] is None else percent(row[name])) for name in ("both", "chance")],
        )
        for row in families
    ]
    return rows_table(["family", "neurons", "mean excess", "like neurons", "nearest too", "by chance"], rows)


def _similarity(alike: Mapping[str, Any]) -> str:
    lines = []
    for layer, own, chance in zip(alike["layer"], alike["similarity"], alike["chance"], strict=True):
        cells = []
        for value, random in zip(own, chance, strict=True):
            shade = "" if value is None else f"class='s{round(10 * min(1.0, max(0.0, value)))}'"
            small = "" if random is None else number(random)
            cells.append(cell("–" if value is None else f"{value:.2f}", small=small, more=shade))
        lines.append(f"<tr><th scope='row'>{layer}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th scope='col'>{html.escape(str(layer))}</th>" for layer in alike["layer_to"])
    return (
        "<div class='sideways'><table class='map'><caption>layers by layers of the other model</caption>"
        f"<thead><tr><th>layer</th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


PAGE = Page(UNIVERSALITY, _title, _body, ("page", "concept"))
