"""A dictionary's features as one HTML page that opens offline: a prompt with its features, all in a table, and cards.

The table is searched and sorted in the page. Text of the corpus never becomes markup.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from caseback.reports.dictionaries.features import FEATURES
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, percent
from caseback.views.page.kit.tables import table
from caseback.views.page.page import Page


def _title(document: Mapping[str, Any]) -> str:
    return f"features of {document['dictionary']['site']} · {visible(document['model']['name'])}"


def _tables(document: Mapping[str, Any]) -> str:
    own, features = document["dictionary"], document["features"]
    strongest = sorted(features, key=lambda row: -abs(row["max"]))
    rows = (
        (
            str(row["feature"]),
            percent(row["density"]),
            number(row["max"]),
            " ".join(row["up"]),
            " ".join(row["down"]),
            "".join(row["strongest"]),
            row.get("label", ""),
        )
        for row in strongest
    )
    head = ("feature", "active at", "largest", "raises", "lowers", "strongest at the last of", "note")
    caption = f"All {len(features)} features, the largest activation first"
    return (
        f"<h1>Features of {html.escape(own['site'])}</h1><p>{html.escape(visible(document['model']['name']))}, over "
        f"{document['tokens']:,} tokens, without the first of rows and those whose states are ten times as long as the "
        f"median. Search, sorting and cards need JavaScript.</p>{table(caption, head, rows)}"
    )


PAGE = Page(FEATURES, _title, _tables, ("page", "features"), script="features")
