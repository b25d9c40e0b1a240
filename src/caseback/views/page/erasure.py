"""An erasure as one HTML page that opens offline: what probes read before and after, and what the model loses.

Effects on the model are drawn on one line with the bands of random concepts; names never become
markup.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from caseback.reports.concepts.erasure import ERASURE
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, percent, signed
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, layer_map, lead, note, rows_table
from caseback.views.page.page import Page

__all__ = ["erasure_html"]

_METRICS = {
    "kl": "KL of the next token from the clean run, in nats.",
    "loss": "Change of the loss of all tokens, in nats.",
}
_WIDTH, _ROOM = 240, 8
_BY_CHANCE = "labels dealt at random"
_ALONE = (
    "random concepts of equal rank move them by less than {}, and of equal variance by less than {}",
    "Bars: the middle 95 % of random concepts, of equal rank (dark) and of equal variance (pale). Dot: the label "
    "erased; circle: erased, and the label given back on average.",
    "A concept that the model uses lies beyond both bars, and its circle within them.",
)
_WITH_LABELS = (
    "the same erasing, fitted to and given labels dealt at random, move them by less than {}",
    "Bars: the middle 95 % of the same erasing, fitted to and given labels dealt at random. Dot: the label erased.",
    "A concept that the model uses lies beyond the bar.",
)


@checked
def erasure_html(document: Mapping[str, Any]) -> str:
    """A document of an erasure as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.erasure.erasure_report`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _label(document: Mapping[str, Any]) -> str:
    classes = [visible(name) for name in document["texts"]["classes"]]
    return ", ".join(classes[:4]) + (", …" if len(classes) > 4 else "")


def _title(document: Mapping[str, Any]) -> str:
    return f"{_label(document)} erased · {visible(document['model']['name'])}"


def _body(document: Mapping[str, Any]) -> str:
    rows, majority = document["places"], document["majority"]
    texts = document["texts"]
    counts = ", ".join(f"{visible(name)} {n}" for name, n in texts["classes"].items())
    before = [row["before"] for row in rows]
    most = max(rows, key=lambda row: row["after"])
    loudest = max(rows, key=lambda row: row["effects"]["erased"])
    controls, bars, others = _WITH_LABELS if _BY_CHANCE in loudest["effects"] else _ALONE
    above = [number(loudest["effects"][name][1]) for name in _bands(loudest["effects"])]
    shares = " to ".join(dict.fromkeys([percent(min(before)), percent(max(before))]))
    words = (
        f"Fitted by {document['method']} to {texts['count'] - texts['held_out']} of {texts['count']} texts ({counts}), "
        f"judged on the {texts['held_out']} others. Before, probes are right on {shares} of these; "
        f"after, on {percent(most['after'])} at most (at "
        f"{most['place']}), where the commonest class alone is right on {percent(majority)}. The model's predictions "
        f"move most when it is erased at {loudest['place']}: by {number(loudest['effects']['erased'])}, where 95 % of "
        f"{controls.format(*above)}."
    )
    places = [_parts(row["place"]) for row in rows]
    maps = "".join(
        layer_map(places, [row[when] for row in rows], f"Accuracy {when}", empty=majority)
        for when in ("before", "after")
    )
    parts = [lead(words)]
    if maps:
        parts.append(f"<h2>Read by layer and site</h2><div class='beside'>{maps}</div>")
    parts += [
        "<h2>What probes read</h2>",
        note(
            "Pale: before; full: after, with the thin line its 95 % interval over held-out groups. The dashed line is "
            "the commonest class."
        ),
        _probes(list(reversed(rows)), majority),
        "<h2>What the model loses</h2>",
        note(f"{_METRICS[document['metric']]} {bars} {others} The scale is of square roots."),
        _effects(document),
    ]
    return frame(document, "What does erasing {} do?", _label(document), *parts)


def _parts(place: str) -> dict[str, Any]:
    """A place's site, layer and head, from its name."""
    site, *numbers = place.split(".")
    if not numbers or len(numbers) > 2 or not all(part.isdecimal() for part in numbers):
        return {"name": place, "site": place, "layer": None, "head": None}
    layer, head = (*map(int, numbers), None)[:2]
    return {"name": place, "site": site, "layer": layer, "head": head}


def _probes(rows: Sequence[Mapping[str, Any]], majority: float) -> str:
    lines = []
    for row in rows:
        x = {name: 200 * row[name] for name in ("before", "after", "low", "high")}
        drawing = (
            "<td><svg class='bar-of' viewBox='0 0 200 14' width='200' height='14' role='img' "
            f"aria-label='{row['before']:.3f}, then {row['after']:.3f}'><rect class='track' width='200' height='14'/>"
            f"<rect class='fill before' width='{x['before']:.1f}' height='14'/>"
            f"<rect class='fill' width='{x['after']:.1f}' height='14'/>"
            f"<line class='majority' x1='{200 * majority:.1f}' x2='{200 * majority:.1f}' y1='0' y2='14'/>"
            f"<line class='between' x1='{x['low']:.1f}' x2='{x['high']:.1f}' y1='7' y2='7'/></svg></td>"
        )
        after = cell(f"{row['after']:.3f}", small=f"{row['low']:.3f}–{row['high']:.3f}")
        rest = [cell(str(row["rank"])), cell(percent(row["removed"]))]
        lines.append((row["place"], [drawing, cell(f"{row['before']:.3f}"), after, *rest]))
    return rows_table(["", "", "before", "after", "rank", "variance removed"], lines)


def _effects(document: Mapping[str, Any]) -> str:
    rows = [(row["place"], row["effects"]) for row in reversed(document["places"])]
    if document["together"] is not None:
        rows.insert(0, ("all of them", document["together"]))
    values = [0.0]
    for _, effects in rows:
        for value in effects.values():
            values += value if isinstance(value, list) else [value]
    low, high = _root(min(values)), _root(max(values))

    def across(value: float) -> float:
        return _ROOM + (_WIDTH - 2 * _ROOM) * (_root(value) - low) / ((high - low) or 1.0)

    lines = []
    for name, effects in rows:
        shown = [
            cell(f"{number(value[0])} to {number(value[1])}" if isinstance(value, list) else signed(value))
            for value in effects.values()
        ]
        lines.append((name, [f"<td>{_band(effects, across)}</td>", *shown]))
    titles = [name.replace("random of equal variance", "of equal variance") for name in rows[0][1]]
    return rows_table(["", "", *titles], lines)


def _bands(effects: Mapping[str, Any]) -> list[str]:
    """Names of the controls that an effect stands beside."""
    return [name for name, value in effects.items() if isinstance(value, list)]


def _root(value: float) -> float:
    return math.copysign(math.sqrt(abs(value)), value)


def _band(effects: Mapping[str, Any], across: Callable[[float], float]) -> str:
    bars = []
    for kind, name, y in zip(("rank", "variance"), _bands(effects), (3, 11), strict=False):
        a, b = effects[name]
        width = max(across(b) - across(a), 1.5)
        bars.append(f"<rect class='{kind}' x='{across(a):.1f}' y='{y}' width='{width:.1f}' height='4'/>")
    back = ""
    if "label given back" in effects:
        back = f"<circle class='back' cx='{across(effects['label given back']):.1f}' cy='9' r='4'/>"
    label = html.escape(f"erased {number(effects['erased'])}", quote=True)
    return (
        f"<svg class='band-of' viewBox='0 0 {_WIDTH} 18' width='{_WIDTH}' height='18' role='img' aria-label='{label}'>"
        f"<line class='none' x1='{across(0):.1f}' x2='{across(0):.1f}' y1='0' y2='18'/>{''.join(bars)}"
        f"{back}<circle class='erased' cx='{across(effects['erased']):.1f}' cy='9' r='4'/></svg>"
    )


PAGE = Page(ERASURE, _title, _body, ("page", "concept"))
