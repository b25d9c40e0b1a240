"""The prompt's claim against memory as one HTML page that opens offline: the heads of both kinds, and their dials.

Orange is the claimed answer, which the prompt supports; every curve has random heads beside it.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from caseback.reports.concepts.context_memory import CONTEXT_MEMORY
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, percent, signed
from caseback.views.page.kit.curve_svg import curve_svg
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table
from caseback.views.page.page import Page
from caseback.views.text.concepts.context_memory import claims_words, dial_words

__all__ = ["context_memory_html"]


@checked
def context_memory_html(document: Mapping[str, Any]) -> str:
    """A document of context and memory as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.context_memory.context_memory_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _name(document: Mapping[str, Any]) -> str:
    return visible(document["relation"]) or "facts"


def _title(document: Mapping[str, Any]) -> str:
    return f"claimed or known, {_name(document)} · {visible(document['model']['name'])}"


def _body(document: Mapping[str, Any]) -> str:
    example, how = document["example"], document["how"]
    parts = [
        lead(f"The model {claims_words(document)}."),
        note(
            f"Such as: “{example['context']}” Claimed: {example['claimed']}; known: {example['answer']}. Heads were "
            "chosen on the other half of the subjects."
        ),
        "<h2>Who speaks for which answer</h2>",
        note(
            "A head's direct share in the claimed answer's logit less the known one's, where the prompt claims "
            "otherwise and where it claims what is known. In-context heads speak for what is claimed, whatever that "
            "is, suppressing heads against it, memory heads for what is known, whatever is claimed. Then what the "
            "difference loses without the head, beside 95 % of the other heads."
        ),
        _heads(document["heads"]),
    ]
    for dial in document["dials"]:
        parts += [f"<h2>The dial of {dial['kind']} heads</h2>", note(f"{_first(dial_words(dial))}.")]
        parts += [_charts(document["factors"], dial), _table(document["factors"], dial)]
    random = (
        f"the mean of {how['draws']} random sets of as many heads, as near in depth, with the least and the largest"
    )
    parts.append(
        note(
            "Shares of held-out prompts by what the heads' outputs at the last token are multiplied by; 1 is the model "
            f"as it is. Dashed: {random if how['draws'] else 'nothing, since no random heads were drawn'}."
        )
    )
    return frame(document, "Which {} does it say, the claimed or the known?", _name(document), *parts)


def _first(words: str) -> str:
    return words[:1].upper() + words[1:]


def _heads(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        (
            row["name"],
            [
                cell(row["kind"]),
                cell(signed(row["direct"])),
                cell(signed(row["direct_agreeing"])),
                cell(signed(row["knockout"]), small="" if row["error"] is None else f"± {number(row['error'])}"),
                cell(
                    "–" if row["band"] is None else signed(row["band"] if row["kind"] == "in-context" else -row["band"])
                ),
            ],
        )
        for row in rows
    ]
    heads = ["head", "kind", "claims otherwise", "claims what is known", "lost without it", "other heads"]
    return rows_table(heads, lines, faint=[not row["above"] for row in rows])


def _charts(factors: Sequence[float], dial: Mapping[str, Any]) -> str:
    random = dial["random"]
    drawn = []
    for name, words, beside in (
        ("claimed", "claimed answers", "mean"),
        ("margin", "claimed − known, logits", "margin"),
    ):
        picture = curve_svg(
            f"{words}, by factor",
            factors,
            dial[name],
            beside=random[beside] if random else None,
            band=(random["low"], random["high"]) if random and name == "claimed" else None,
        )
        drawn.append(f"<figure class='chart'><h3>{html.escape(words)}</h3>{picture}</figure>")
    return f"<div class='charts'>{''.join(drawn)}</div>"


def _table(factors: Sequence[float], dial: Mapping[str, Any]) -> str:
    random = dial["random"]
    heads = ["factor", "claimed", "known", "claim agrees", "no claim"]
    heads += ["random: claimed", "random: known"] if random else []
    lines = []
    for i, factor in enumerate(factors):
        shares = [dial[name][i] for name in ("claimed", "known", "agreeing", "bare")]
        shares += [random[name][i] for name in ("mean", "known")] if random else []
        lines.append((f"{factor:g}".replace("-", "−"), [cell(percent(share)) for share in shares]))
    return rows_table(heads, lines)


PAGE = Page(CONTEXT_MEMORY, _title, _body, ("page", "concept"))
