"""What dictionaries are worth as one HTML page that opens offline: active features against loss, and every measure.

Names never become markup.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from caseback.reports.dictionaries.dictionaries import DICTIONARIES, MEASURES
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, percent
from caseback.views.page.kit.curve_svg import ticks
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table
from caseback.views.page.page import Page
from caseback.views.text.dictionaries.dictionaries import shared_words

_WORDS = {
    "l0": "active",
    "explained_variance": "explained",
    "explained_variance_tokens": "by token",
    "explained_variance_of_error": "of error",
    "cosine": "cosine",
    "relative_bias": "bias",
    "dead_share": "silent",
    "nearest_row": "nearest row",
    "encoder_agreement": "reads = writes",
    "ce_increase": "+ CE",
    "ce_recovered": "recovered",
    "kl": "KL",
    "kl_ratio": "KL / random",
}
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 560, 300, 56, 34


def _title(document: Mapping[str, Any]) -> str:
    return f"dictionaries · {visible(document['model']['name'])}"


def _body(document: Mapping[str, Any]) -> str:
    rows = document["rows"]
    head = ["", *(_WORDS[name] for name in MEASURES)]
    lines = [
        (row["name"], [cell("—" if row[name] is None else number(row[name])) for name in MEASURES]) for row in rows
    ]
    trained = [row for row in rows if row["kind"] == "trained"]
    return frame(
        document,
        "What are dictionaries of {} worth?",
        visible(document["model"]["name"]),
        lead(
            f"{len(trained)} measured on {document['tokens']:,} tokens, without {document['skipped']}, each beside "
            f"random features of the same number and activity. The model's own loss is {document['ce_clean']:.3f} nats."
        ),
        "<h2>Active features and loss</h2>",
        f"<div class='sideways'>{_scatter(rows)}</div>",
        note("Filled: trained. Lower and further left is better; the line joins those that no other of them beats."),
        "<h2>Every measure</h2>",
        rows_table(head, lines, faint=[row["kind"] != "trained" for row in rows]),
        note(
            f"explained: {document['definition']}; by token, the mean over tokens; of error, by the error's variance. "
            "+ CE: what the loss gains where the reconstruction stands in for the states; recovered: its share of what "
            "zeros cost, which hides much. KL / random: against errors as long in random directions."
        ),
        *(note(f"{visible(one['name'])}: {shared_words(one)}.") for one in document.get("shared") or ()),
        *_moved(document.get("attributes")),
        *_forgotten(document.get("forgotten")),
    )


def _moved(moved: Mapping[str, Any] | None) -> list[str]:
    """Ways to move one attribute, by cause and isolation."""
    if moved is None:
        return []
    keys = ("cause", "isolation", "disentangle")
    lines = [
        (row["name"], [*(cell(percent(row[key])) for key in keys), cell(str(row["size"]))]) for row in moved["rows"]
    ]
    head = ["", "cause", "isolation", "both", "swapped"]
    others = ", ".join(visible(name) for name in moved["others"])
    return [
        f"<h2>{html.escape(visible(moved['attribute']))} moved, {html.escape(others)} left alone</h2>",
        rows_table(head, lines, faint=["random" in row["name"] for row in moved["rows"]]),
        note(
            f"At {moved['site']}, at an entity's last token: searched on {moved['trained']} examples, judged on "
            f"{moved['judged']} of other entities. cause: answered as for the entity swapped in; isolation: other "
            "attributes still answered as before; both: their mean, a half for swapping nothing."
        ),
    ]


def _forgotten(forgotten: Mapping[str, Any] | None) -> list[str]:
    """What is forgotten and what is retained, at each setting."""
    if forgotten is None:
        return []
    settings = forgotten["rows"][0]["settings"]
    head = ["", "score", *(f"{one['k']} × {number(one['strength'])}" for one in settings)]
    lines = [
        (
            row["name"],
            [
                cell("—" if row["score"] is None else percent(row["score"])),
                *(cell(f"{percent(one['forgotten'])} / {percent(one['retained'])}") for one in row["settings"]),
            ],
        )
        for row in forgotten["rows"]
    ]
    return [
        "<h2>Forgotten and retained</h2>",
        rows_table(head, lines, faint=["random" in row["name"] for row in forgotten["rows"]]),
        note(
            f"Of {forgotten['forget_questions']} questions no longer answered / of {forgotten['retain_questions']} "
            "others still answered, by features held down × strength in mean activations. score: the most that is "
            f"forgotten where {percent(forgotten['least_retained'])} of the others are still answered."
        ),
    ]


def _scatter(rows: Sequence[Mapping[str, Any]]) -> str:
    """Active features a token, on a logarithmic scale, against the increase of the loss."""
    shown = [row for row in rows if row["l0"] and row["ce_increase"] is not None]
    if not shown:
        return ""
    x = [math.log10(row["l0"]) for row in shown]
    y = [row["ce_increase"] for row in shown]
    low, high = min(x) - 0.1, max(x) + 0.1
    least, most = min(0.0, *y), max(y) + 0.05 * (max(y) - min(y) or 1.0)

    def place(a: float, b: float) -> tuple[float, float]:
        across = _LEFT + (a - low) / (high - low) * (_WIDTH - _LEFT - 20)
        return across, 10 + (most - b) / (most - least) * (_HEIGHT - 10 - _BOTTOM)

    parts = []
    for tick in ticks(least, most):
        _, at = place(low, tick)
        parts.append(f"<line class='rule' x1='{_LEFT}' x2='{_WIDTH - 20}' y1='{at:.1f}' y2='{at:.1f}'/>")
        parts.append(f"<text x='{_LEFT - 8}' y='{at + 4:.1f}' text-anchor='end'>{number(tick)}</text>")
    for tick in sorted({round(10**v) for v in x}):
        at, _ = place(math.log10(tick), least) if tick else (0.0, 0.0)
        parts.append(f"<text x='{at:.1f}' y='{_HEIGHT - 14}' text-anchor='middle'>{tick}</text>")
    best = sorted((place(a, b) for row, a, b in zip(shown, x, y, strict=True) if row["frontier"]))
    if len(best) > 1:
        parts.append(f"<polyline class='line' points='{' '.join(f'{a:.1f},{b:.1f}' for a, b in best)}'/>")
    for row, a, b in zip(shown, x, y, strict=True):
        across, down = place(a, b)
        kind = "dot" if row["kind"] == "trained" else "dot open"
        words = f"{row['name']}: {number(row['l0'])} active, {number(row['ce_increase'])} nats"
        parts.append(
            f"<circle class='{kind}' cx='{across:.1f}' cy='{down:.1f}' r='5'><title>{html.escape(words)}</title>"
            "</circle>"
        )
    return (
        f"<svg class='scatter' viewBox='0 0 {_WIDTH} {_HEIGHT}' width='{_WIDTH}' height='{_HEIGHT}' role='img' "
        f"aria-label='active features against the increase of the loss'>{''.join(parts)}</svg>"
    )


PAGE = Page(DICTIONARIES, _title, _body, ("page", "concept"))
