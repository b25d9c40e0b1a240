"""An edit of facts as one HTML page that opens offline: every prompt before and after, measures, and side effects.

How likely the wanted answer is stands as a bar, pale before and full after; texts never become
markup.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from caseback.reports.document import checked
from caseback.reports.editing import EDITING, GROUPS
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, percent
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table
from caseback.views.page.page import Page
from caseback.views.text.editing import not_taken

__all__ = ["editing_html"]

_ASKED = {
    "efficacy": "The edited prompt",
    "paraphrase": "Other wordings",
    "neighborhood": "Neighbors, which are to stay",
}
_WAYS = {"": "likelier than its rival", "_magnitude": "by", "_accuracy": "teacher-forced", "_exact": "generated"}
_NOTHING = {"before": None, "after": None}


@checked
def editing_html(document: Mapping[str, Any]) -> str:
    """A document of an edit of facts as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.editing.editing_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _about(document: Mapping[str, Any]) -> str:
    facts = document["facts"]
    return f"{_spoken(facts[0]['text'])}{_spoken(facts[0]['new'])}" if len(facts) == 1 else f"{len(facts)} facts"


def _spoken(text: str) -> str:
    """A text in one line, its spaces as they are."""
    return visible(text).replace("␣", " ")


def _title(document: Mapping[str, Any]) -> str:
    return f"{_about(document)} · {visible(document['model']['name'])}"


def _body(document: Mapping[str, Any]) -> str:
    layers = ", ".join(map(str, document["layers"]))
    prompts = [row for fact in document["facts"] for row in fact["prompts"]]
    counts = []
    for group in GROUPS:
        rows = [row for row in prompts if row["group"] == group]
        if rows:
            was, now = (sum(row[when]["exact"] for row in rows) for when in ("before", "after"))
            counts.append(f"{_ASKED[group].lower()}: {was} of {len(rows)} before, {now} after")
    parts = [
        lead(
            f"Edited by {document['method']} at layer {layers}. Wanted answers that are generated: "
            f"{'; '.join(counts)}. {' '.join(filter(None, (not_taken(document), document['remark'])))}"
        )
    ]
    for group in GROUPS:
        rows = [row for row in prompts if row["group"] == group]
        if rows:
            parts += [f"<h2>{_ASKED[group]}</h2>", _prompts(rows)]
    parts.insert(
        2,
        note(
            "Bars: how likely the wanted answer is, per piece, teacher-forced; pale before, full after. Its rank is "
            "that of its first piece among all tokens; neighbors have the new answer's too. Beside it stands what the "
            "model writes."
        ),
    )
    parts += [
        "<h2>Measures, before → after</h2>",
        _measures(document["summary"]),
        "<h2>What changed</h2>",
        _changes(document),
    ]
    if (side := document["plain_text"]) is not None:
        parts += ["<h2>Plain text</h2>", _side(side)]
    return frame(document, "What does writing {} do?", _about(document), *parts)


def _prompts(rows: list[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        p = [math.exp(min(0.0, row[when]["log_prob"])) for when in ("before", "after")]
        # full lies within pale, so that neither hides the other
        bars = [("fill before", p[0], 0, 14), ("fill", p[1], 4, 6)]
        drawn = "".join(
            f"<rect class='{kind}' width='{120 * share:.1f}' y='{y}' height='{height}'/>"
            for kind, share, y, height in bars
        )
        bar = (
            "<td><svg class='bar-of' viewBox='0 0 120 14' width='120' height='14' role='img' "
            f"aria-label='{p[0]:.3f}, then {p[1]:.3f}'><rect class='track' width='120' height='14'/>{drawn}</svg></td>"
        )
        written = [cell(_spoken(row[when]["says"]), small=_ranks(row, when)) for when in ("before", "after")]
        right = cell("yes" if row["after"]["exact"] else "no")
        lines.append((_spoken(row["text"]), [cell(_spoken(row["answer"])), bar, *written, right]))
    return rows_table(["", "wanted", "likely", "before", "after", "right"], lines)


def _ranks(row: Mapping[str, Any], when: str) -> str:
    new = f", new {row[when]['new_rank']}" if row["group"] == "neighborhood" else ""
    return f"rank {row[when]['rank']}{new}"


def _measures(summary: Mapping[str, Any]) -> str:
    """A row a group, a column a way of scoring; the score S, which has no group, below."""
    groups = [*GROUPS, "portability"]
    lines = []
    for name in (*groups, "score"):
        columns = [summary.get(f"{name}{way}", _NOTHING) for way in _WAYS]
        if any(values["after"] is not None for values in columns):
            lines.append((name, [cell(_then(values)) for values in columns]))
    return rows_table(["", *_WAYS.values()], lines)


def _then(values: Mapping[str, Any]) -> str:
    before, after = ("–" if values[when] is None else number(values[when]) for when in ("before", "after"))
    return "" if values["before"] is values["after"] is None else f"{before} → {after}"


def _changes(document: Mapping[str, Any]) -> str:
    lines = []
    for change in document["changes"]:
        if change["norm"] is None:
            cells = [cell("a memory"), cell("–"), cell("–")]
        else:
            cells = [cell(str(change["rank"])), cell(number(change["norm"])), cell(percent(change["share"]))]
        lines.append((visible(change["site"]), cells))
    return rows_table(["", "rank", "norm", "of the matrix's own"], lines)


def _side(side: Mapping[str, Any]) -> str:
    names = {"kl": "KL, nats", "perplexity_before": "perplexity before", "perplexity_after": "perplexity after"}
    return rows_table(
        ["", f"over {side['texts']} texts"], [(words, [cell(number(side[name]))]) for name, words in names.items()]
    )


PAGE = Page(EDITING, _title, _body, ("page", "concept"))
