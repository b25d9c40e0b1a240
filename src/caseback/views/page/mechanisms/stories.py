"""The stories of many prompts as one HTML page that opens offline: parts, places, checks, and each prompt's own story.

Parts that carry the answer are orange, those that work against it blue, by their mean share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseback.reports.document import checked
from caseback.reports.story.several import STORIES
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import signed
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table, signed_class
from caseback.views.page.page import Page
from caseback.views.text.concepts.stories import ANSWER, answer_rows, counts_words, shared_words

__all__ = ["stories_html"]


@checked
def stories_html(document: Mapping[str, Any]) -> str:
    """A document of stories as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.story.several.stories`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"stories of {document['source'] or 'prompts'} · {visible(document['model']['name'])}"


def _body(document: Mapping[str, Any]) -> str:
    parts = [lead(f"{counts_words(document)}. {shared_words(document)}")]
    if "answer" in document:
        parts += [
            "<h2>Token by token</h2>",
            note(
                f"After “{document['answer']['prompt']}”. What replacing a word takes away, as a share of what the "
                "token's counterfactual takes away; what exchanging a head or MLP moves."
            ),
            _answer(document),
        ]
    if document["parts"]:
        parts += [
            "<h2>Heads and MLPs</h2>",
            note(
                "In how many stories each carries the answer or works against it; the share of the answer that "
                "exchanging it moves, mean over the stories that exchanged it. * more often than the most frequent of "
                f"all parts would be by chance ({document['band']})."
            ),
            _parts(document),
        ]
    if document["places"]:
        parts += ["<h2>Places</h2>", note("Layers are medians of the hops’ ends."), _places(document)]
    if document["checks"]:
        parts += ["<h2>Did it hold elsewhere?</h2>", _checks(document)]
    parts += ["<h2>Prompt by prompt</h2>", *map(_story, document["rows"])]
    question = "What does each token hang on in {}?" if "answer" in document else "What carries the answers of {}?"
    return frame(document, question, document["source"] or "these prompts", *parts)


def _answer(document: Mapping[str, Any]) -> str:
    rows = [(first, [cell(text) for text in others]) for first, *others in answer_rows(document)]
    return rows_table(ANSWER, rows)


def _parts(document: Mapping[str, Any]) -> str:
    rows = []
    for row in document["parts"]:
        counts = [cell(str(row[role]) if row[role] else "") for role in ("carrier", "opponent")]
        share = cell(signed(row["mean"]), more=f"class='{signed_class(row['mean'])}'")
        rows.append(
            (
                f"{row['name']} *" if row["above"] else row["name"],
                [*counts, share, cell(f"{row['sd']:.2f}"), cell(str(row["exchanged"]))],
            )
        )
    return rows_table(["part", "carries it", "works against it", "share", "sd", "exchanged in"], rows)


def _places(document: Mapping[str, Any]) -> str:
    rows = []
    for row in document["places"]:
        layers = "" if row["first"] is None else f"{row['first']:g} to {row['last']:g}"
        name = row["place"] or "elsewhere"
        rows.append((name, [cell(str(row["words"])), cell(str(row["hops"])), cell(layers)]))
    return rows_table(["place", "its word matters in", "the stream carries it in", "before layers"], rows)


def _checks(document: Mapping[str, Any]) -> str:
    heads = ["check", "held", "weak", "failed", "mean", "held from"]
    rows = [
        (
            row["name"],
            [cell(str(row[key])) for key in ("held", "weak", "failed")]
            + [cell(f"{row['mean']:.2f}"), cell(f"{row['limit']:.2f}")],
        )
        for row in document["checks"]
    ]
    return rows_table(heads, rows)


def _story(row: Mapping[str, Any]) -> str:
    """One prompt: itself, what was exchanged, and the sentences of its story."""
    answers = f"{visible(row['target']['text'])} and not {visible(row['foil']['text'])}"
    changed = f" Changed: {', '.join(row['changes'])}." if row["changes"] else ""
    lines = [lead(row["prompt"]), note(f"{answers}.{changed}"), note(" ".join(row["sentences"]))]
    return f"<section>{''.join(lines)}</section>"


PAGE = Page(STORIES, _title, _body, ("page", "concept"))
