"""What drives one unit at one place of a prompt, as one HTML page that opens offline.

The prompt, each token shaded by what stands there of the rows; then the rows. Orange brings the unit up, blue down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseback.reports.document import checked
from caseback.reports.quick.drivers import UNIT_DRIVERS
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import signed
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table, signed_class, token_strip
from caseback.views.page.page import Page
from caseback.views.text.inputs.drivers import driver_columns, driver_rows, driver_words

__all__ = ["drivers_html"]


@checked
def drivers_html(document: Mapping[str, Any]) -> str:
    """A document of a unit's drivers as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.quick.drivers.unit_drivers`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"what drives {document['unit']} · {visible(document['model']['name'])}"


def _body(document: Mapping[str, Any]) -> str:
    rows = driver_rows(document)
    most = max((abs(weight) for _, weight in rows), default=0.0) or 1.0
    first, second = driver_columns(document)
    table = [
        (
            names[0],
            [cell(names[1], more="class='words'"), cell(signed(weight), more=f"class='{signed_class(weight / most)}'")],
        )
        for names, weight in rows
    ]
    rest = ("all others", [cell(""), cell(signed(document["rest"]))])
    head = document["of"]["kind"] == "head"
    texts = [token["text"] for token in document["tokens"]]
    return frame(
        document,
        "Why does {} look there?" if head else "What drives {}?",
        document["unit"],
        lead(f"{driver_words(document)}."),
        "<h2>The prompt</h2>",
        note(f"Shaded by the sum of the rows below whose writer {'of the key ' if head else ''}stands at the token."),
        "<div class='one-text'>" + token_strip(texts, _by_token(document)) + "</div>",
        f"<h2>{'Pairs of writers' if head else 'Writers'}</h2>",
        note(
            "Attention patterns and norms' denominators are as the prompt has them; the rows and all others sum to the "
            f"value, but for {signed(document['gap'])} of rounding. Orange brings it up, blue brings it down."
        ),
        rows_table([first, second, "weight"], [*table, rest], faint=[*[False] * len(table), True]),
    )


def _by_token(document: Mapping[str, Any]) -> list[float]:
    """Of each token the sum of rows that a writer at it has; of a head's pairs the writer at the key."""
    sums = [0.0] * len(document["tokens"])
    for row in document["rows"]:
        if (pos := row["writers"][-1]["pos"]) is not None:
            sums[pos] += row["weight"]
    return sums


PAGE = Page(UNIT_DRIVERS, _title, _body, ("page", "concept"))
