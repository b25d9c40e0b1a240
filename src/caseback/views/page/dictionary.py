"""What dictionaries are as one HTML page that opens offline; a script puts the cards of features behind their facts.

Names and what files say never become markup.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from caseback.reports.dictionaries.dictionary import DICTIONARY
from caseback.reports.tokens_text import visible
from caseback.views.page.kit.frame import cut, frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table
from caseback.views.page.page import Page
from caseback.views.text.dictionaries.dictionary import facts_of


def _title(document: Mapping[str, Any]) -> str:
    return f"dictionary {visible(document['dictionaries'][0]['name'])}"


def _body(document: Mapping[str, Any]) -> str:
    several, cards = document["dictionaries"], document["cards"]
    over = "" if document["tokens"] is None else f" over {document['tokens']:,} tokens"
    words = f"{len(cards)} of its features have a card below{over}." if cards else "Read from its weights and files."
    return frame(
        document,
        "What is {}?",
        ", ".join(visible(one["name"]) for one in several),
        lead(words),
        *(_facts(one) for one in several),
        *([_words(cards)] if cards else []),
    )


def _facts(one: Mapping[str, Any]) -> str:
    rows = [(visible(name), [cell(visible(cut(words)))]) for name, words in facts_of(one)]
    return f"<h2>{html.escape(visible(one['name']))}</h2>{rows_table(['', ''], rows)}"


def _words(cards: list[Mapping[str, Any]]) -> str:
    """What features write, for readers without JavaScript."""
    rows = [
        (
            str(card["feature"]),
            [cell(" ".join(visible(one["token"]) for one in card[side])) for side in ("up", "down")],
        )
        for card in cards
    ]
    table = rows_table(["feature", "raises", "lowers"], rows)
    return f"<noscript>{table}{note('Cards need JavaScript.')}</noscript>"


PAGE = Page(DICTIONARY, _title, _body, ("page", "concept", "features"), script="dictionary", adds=True)
