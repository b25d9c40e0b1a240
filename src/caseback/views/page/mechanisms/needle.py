"""What a model finds in long prompts, as one HTML page that opens offline: recall, and the heads that bring words."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from caseback.reports.concepts.needle import NEEDLE
from caseback.reports.document import checked
from caseback.views.numbers_text import number, percent
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table
from caseback.views.page.page import Page
from caseback.views.text.concepts.needle import bringers_words, found_words

__all__ = ["needle_html"]

DRAWN = 12
SHADES = 9


@checked
def needle_html(document: Mapping[str, Any]) -> str:
    """A document of a needle test as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.needle.needle_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"needle · {document['model']['name']}"


def _body(document: Mapping[str, Any]) -> str:
    without = document["without"]
    words = bringers_words(document)
    parts = [
        lead(f"The model {found_words(document)}."),
        note(f"{words[:1].upper()}{words[1:]}."),
        "<h2>Recall</h2>",
        note(
            "A word is told once among other sentences, and asked for at the end. Rows: tokens; columns: the share of "
            "the sentences that come before it."
        ),
        _places(document, document["recall"], "recall by length and depth"),
        "<h2>Without heads</h2>",
        note(
            "Recall of the prompts that the heads were not found on: of the model as it is, without the heads below, "
            "and without as many others, drawn anew."
        ),
        rows_table(
            ["tokens", "as it is", "without", "without others", "at least"],
            [
                (
                    str(length),
                    [cell(percent(without["by_length"][name][i])) for name in ("clean", "without", "random", "worst")],
                )
                for i, length in enumerate(document["lengths"])
            ],
        ),
        "<h2>Heads</h2>",
        note(
            "The share of recalled prompts in which a head attends most to the word, from the last token. Held out: of "
            "the other half. Another's word: the same of the word that was told of somebody else."
        ),
        rows_table(
            ["head", "score", "held out", "another's word"],
            [
                (
                    row["head"],
                    [
                        cell("–" if row[name] is None else number(row[name]))
                        for name in ("score", "held_out", "distractor")
                    ],
                )
                for row in document["heads"]
            ],
        ),
    ]
    for row in document["heads"][:DRAWN]:
        parts += [f"<h3>{html.escape(row['head'])}</h3>", _places(document, row["by_place"], f"score of {row['head']}")]
    return frame(document, "Does it {} what was said long ago?", "find", *parts)


def _places(document: Mapping[str, Any], values: Sequence[Sequence[float | None]], caption: str) -> str:
    """Shares by length and depth, shaded."""
    head = "".join(f"<th scope='col'>{percent(depth)}</th>" for depth in document["depths"])
    lines = [
        f"<tr><th scope='row'>{length}</th>{''.join(map(_share, row))}</tr>"
        for length, row in zip(document["lengths"], values, strict=True)
    ]
    return (
        f"<div class='sideways'><table class='map'><caption>{html.escape(caption)}</caption>"
        f"<thead><tr><th>tokens</th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _share(value: float | None) -> str:
    if value is None:
        return "<td>–</td>"
    shade = round(SHADES * value)
    return f"<td{f' class={chr(39)}s{shade}{chr(39)}' if shade else ''}>{percent(value)}</td>"


PAGE = Page(NEEDLE, _title, _body, ("page", "concept"))
