"""Input attributions of many prompts as one HTML page that opens offline: trust, agreement, places, words, prompts.

In the prompts orange supports the target and blue the foil, each prompt and method by its own largest score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseback.reports.document import checked
from caseback.reports.inputs.over_prompts import ATTRIBUTED_PROMPTS
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import percent, signed
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table, token_strip
from caseback.views.page.page import Page
from caseback.views.text.inputs.attributed_prompts import beyond_chance, prompts_words

__all__ = ["attributed_prompts_html"]

_SHOWN = {"words": 40, "places": 40, "rows": 30}


@checked
def attributed_prompts_html(document: Mapping[str, Any]) -> str:
    """A document of attributed prompts as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.inputs.over_prompts.attributions_over_prompts`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"inputs of {document['source'] or 'prompts'} · {visible(document['model']['name'])}"


def _body(document: Mapping[str, Any]) -> str:
    parts = [
        lead(f"{prompts_words(document)}."),
        "<h2>How far to trust them</h2>",
        note(
            "By how much the logit difference falls without the tokens that a method ranks first, and how far it is "
            "from whole with them alone, less the same of random orders; mean and standard error over the prompts. "
            "High on the left and low on the right is faithful."
        ),
        _trust(document),
        *(note(f"Left out: {one['name']}: {one['why']}") for one in document["refused"]),
    ]
    if len(document["methods"]) > 1:
        parts += ["<h2>Agreement</h2>", note("Rank correlation of sizes, mean over the prompts."), _agreement(document)]
    for what, words in (("places", "Places"), ("words", "Words")):
        if document[what]:
            listed = _SHOWN[what]
            more = f" The first {listed} of {len(document[what])}." if len(document[what]) > listed else ""
            parts += [
                f"<h2>{words}</h2>",
                note(f"Mean share of a prompt's scores, beside what it would be if all counted alike.{more}"),
                _means(document, what),
            ]
    left_out = len(document["rows"]) - _SHOWN["rows"]
    more = [note(f"{left_out} more are in the page's data.")] if left_out > 0 else []
    parts += ["<h2>Prompt by prompt</h2>", *(_prompt(document, row) for row in document["rows"][: _SHOWN["rows"]])]
    return frame(
        document, "Where do the answers of {} come from?", document["source"] or "these prompts", *parts, *more
    )


def _trust(document: Mapping[str, Any]) -> str:
    rows = [
        (
            method["label"],
            [
                *(cell(beyond_chance(method, key)) for key in ("lost", "left")),
                cell("" if method["better"] is None else f"{method['better']}/{len(document['rows'])}"),
            ],
        )
        for method in document["methods"]
    ]
    return rows_table(["method", "lost without the top", "lost with it alone", "better than chance"], rows)


def _agreement(document: Mapping[str, Any]) -> str:
    labels = [method["label"] for method in document["methods"]]
    rows = [
        (label, [cell("–" if value is None else signed(value)) for value in values])
        for label, values in zip(labels, document["spearman"], strict=True)
    ]
    return rows_table(["", *labels], rows)


def _means(document: Mapping[str, Any], what: str) -> str:
    methods = document["methods"]
    rows = [
        (
            visible(row[what[:-1]]),
            [
                *(cell(percent(row["share"][method["name"]])) for method in methods),
                cell(percent(row["even"])),
                cell(str(row["count"])),
            ],
        )
        for row in document[what][: _SHOWN[what]]
    ]
    return rows_table([what[:-1], *(method["label"] for method in methods), "if even", "occurs"], rows)


def _prompt(document: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """One prompt, its tokens shaded by each method."""
    answers = f"{visible(row['target']['text'])} and not {visible(row['foil']['text'])}, {signed(row['value'])}"
    lines = [note(answers)]
    for method in document["methods"]:
        lines.append(token_strip(row["tokens"], row["scores"][method["name"]]) + note(method["label"]))
    return f"<section class='one-text'>{''.join(lines)}</section>"


PAGE = Page(ATTRIBUTED_PROMPTS, _title, _body, ("page", "concept"))
