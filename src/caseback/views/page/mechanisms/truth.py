"""Detectors of truth as one HTML page that opens offline: bars beside baselines, and statements in the plane of truth.

True statements are orange and false ones blue, negated ones open; the dashed line is where odds are even.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from caseback.reports.concepts.truth import TRUTH
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.page.kit.curve_svg import ticks
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table, share_bar
from caseback.views.page.page import Page
from caseback.views.text.concepts.truth import left_out_words, statements_words, verdict_words

__all__ = ["truth_html"]

_WIDTH, _HEIGHT, _EDGE = 640, 420, 44


@checked
def truth_html(document: Mapping[str, Any]) -> str:
    """A document of truth as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.truth.truth_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"truth, {document['title'] or 'statements'} · {visible(document['model']['name'])}"


def _body(document: Mapping[str, Any]) -> str:
    rows = document["rows"]
    parts = [
        lead(f"{statements_words(document)}. {verdict_words(document)}"),
        "<h2>Detectors beside baselines</h2>",
        _bars(rows, "affirmative"),
        note(
            "Bars: AUROC on statements that were not seen; the thin line its 95 % interval over facts; the dashed line "
            "chance; the notch what the same gives for shuffled labels. A score is fitted to nothing, so it has no "
            "notch. ECE: how far probabilities are from what is so, after calibration on other topics. Baselines are "
            "drawn faintly."
        ),
    ]
    if any(row["negated"] is not None for row in rows):
        parts += [
            "<h2>The same on negated statements</h2>",
            note(
                "Below one half a detector follows the words of the answer, and not whether what is said is so. A name "
                "with “both” was fitted to negated statements too."
            ),
            _bars(rows, "negated"),
        ]
    if document["plane"]:
        parts += ["<h2>The plane of truth</h2>", _plane(document["plane"])]
    parts += ["<h2>Topic by topic</h2>", _topics(document)]
    if document["left_out"]:
        parts.append(note(f"Left out: {'; '.join(left_out_words(document))}."))
    return frame(document, "What tells true from false in {}?", document["title"] or "statements", *parts)


def _bars(rows: Sequence[Mapping[str, Any]], group: str) -> str:
    shown = [row for baseline in (False, True) for row in rows if row["baseline"] == baseline and row[group]]
    lines = []
    for row in shown:
        own = row[group]
        cells = [
            f"<td>{share_bar(own['auroc'], own['low'] or 0.0, own['high'] or 0.0, 0.5, own['shuffled'])}</td>",
            cell(_three(own["auroc"]), small=f"{_three(own['low'])}–{_three(own['high'])}"),
            cell(_three(own["within"])),
            cell(_three(own["shuffled"])),
            cell(_three(own["accuracy"])),
            cell(_three(own["brier"])),
            cell(_three(own["calibration_error"])),
            cell(visible(row["place"]) if row["place"] else ""),
        ]
        mark = " *" if own["above"] else ""
        lines.append((row["name"] + mark, cells))
    heads = ["", "", "AUROC", "within topics", "shuffled", "accuracy", "Brier", "ECE", "read at"]
    table = rows_table(heads, lines, faint=[bool(row["baseline"]) for row in shown])
    starred = any(row[group]["above"] for row in shown)
    return table + (note("* its interval is past every baseline's and chance.") if starred else "")


def _plane(plane: Mapping[str, Any] | None) -> str:
    if plane is None:
        return note("It takes statements both affirmative and negated, and the detector two_dimensional.")
    across, up = _Axis(plane["general"], _EDGE, _WIDTH - 12), _Axis(plane["polarity"], _HEIGHT - _EDGE, 12)
    parts = []
    for value in ticks(across.low, across.high, 6):
        at = across.at(value)
        parts.append(f"<line class='rule' x1='{at:.1f}' x2='{at:.1f}' y1='12' y2='{_HEIGHT - _EDGE}'/>")
        parts.append(f"<text x='{at:.1f}' y='{_HEIGHT - 26}' text-anchor='middle'>{_plain(value)}</text>")
    for value in ticks(up.low, up.high, 5):
        at = up.at(value)
        parts.append(f"<line class='rule' x1='{_EDGE}' x2='{_WIDTH - 12}' y1='{at:.1f}' y2='{at:.1f}'/>")
        parts.append(f"<text x='{_EDGE - 6}' y='{at + 4:.1f}' text-anchor='end'>{_plain(value)}</text>")
    for x, y, true, negated, text in zip(
        plane["general"], plane["polarity"], plane["true"], plane["negated"], plane["text"], strict=True
    ):
        kinds = f"dot {'target' if true else 'foil'}{' open' if negated else ''}"
        place = f"cx='{across.at(x):.1f}' cy='{up.at(y):.1f}'"
        parts.append(f"<circle class='{kinds}' {place} r='3.5'><title>{html.escape(visible(text))}</title></circle>")
    parts.append(_decision(plane["line"], across, up))
    parts.append(f"<text x='{(_EDGE + _WIDTH) / 2:.0f}' y='{_HEIGHT - 8}' text-anchor='middle'>truth, t_G · a</text>")
    parts.append(f"<text x='{_EDGE}' y='9'>polarity · a, affirmative above</text>")
    drawing = (
        f"<svg class='scatter' viewBox='0 0 {_WIDTH} {_HEIGHT}' width='{_WIDTH}' height='{_HEIGHT}' role='img' "
        f"aria-label='held-out statements in the plane of truth'>{''.join(parts)}</svg>"
    )
    names = (("target", "true"), ("foil", "false"), ("target open", "true, negated"), ("foil open", "false, negated"))
    key = "".join(f"<span>{_sample(kinds)}{words}</span>" for kinds, words in names)
    words = note(
        f"Statements of one part's topics, none of which were seen, at {visible(plane['place'])}. The dashed line is "
        "where the logistic regression of the other topics' statements has even odds."
    )
    return f"{words}<div class='sideways'>{drawing}</div><p class='key kinds'>{key}</p>"


def _sample(kinds: str) -> str:
    """One point, for the key."""
    dot = f"<circle class='dot {kinds}' cx='6' cy='6' r='4'/>"
    return f"<svg class='scatter' viewBox='0 0 12 12' width='12' height='12'>{dot}</svg>"


class _Axis:
    """Numbers from one pixel to another."""

    def __init__(self, values: Sequence[float], start: float, stop: float):
        low, high = min(values), max(values)
        room = 0.05 * (high - low) or 1.0
        self.low, self.high, self.start, self.stop = low - room, high + room, start, stop

    def at(self, value: float) -> float:
        """Where a number lies."""
        return self.start + (self.stop - self.start) * (value - self.low) / (self.high - self.low)


def _decision(line: Mapping[str, float], across: _Axis, up: _Axis) -> str:
    """The part of w . (x, y) + b = 0 that lies in the drawing."""
    w, v, b = line["weight_general"], line["weight_polarity"], line["bias"]
    ends = []
    if v:
        ends += [(x, -(w * x + b) / v) for x in (across.low, across.high)]
    if w:
        ends += [(-(v * y + b) / w, y) for y in (up.low, up.high)]
    slack = 1e-9 * (across.high - across.low), 1e-9 * (up.high - up.low)
    inside = [
        (x, y)
        for x, y in ends
        if across.low - slack[0] <= x <= across.high + slack[0] and up.low - slack[1] <= y <= up.high + slack[1]
    ]
    if len(inside) < 2:
        return ""
    (a, c), (d, e) = min(inside), max(inside)
    return (
        f"<line class='decision' x1='{across.at(a):.1f}' y1='{up.at(c):.1f}' x2='{across.at(d):.1f}' "
        f"y2='{up.at(e):.1f}'/>"
    )


def _topics(document: Mapping[str, Any]) -> str:
    rows = [row for row in document["rows"] if row["affirmative"] is not None]
    lines = []
    for i, topic in enumerate(document["topics"]):
        cells = [cell(_two(row["affirmative"]["topics"][i])) for row in rows]
        lines.append((topic["name"], [cell(str(topic["count"])), *cells]))
    return note("AUROC among each topic's own affirmative statements.") + rows_table(
        ["topic", "statements", *(row["name"] for row in rows)], lines
    )


def _plain(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


PAGE = Page(TRUTH, _title, _body, ("page", "concept"))
