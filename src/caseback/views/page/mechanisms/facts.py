"""How facts are recalled, as one HTML page that opens offline: subject, relation, attribute, by layer.

Every curve has its control beside it: the band of random positions, or other facts' words.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from caseback.reports.concepts.facts import FACTS
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import percent, signed
from caseback.views.page.kit.curve_svg import curve_svg
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table
from caseback.views.page.page import Page
from caseback.views.text.concepts.facts import known_words, low_rank_words, map_words, source_words, votes_words

__all__ = ["facts_html"]


@checked
def facts_html(document: Mapping[str, Any]) -> str:
    """A document of facts as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.facts.facts_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _name(document: Mapping[str, Any]) -> str:
    return visible(document["relation"]) or "facts"


def _title(document: Mapping[str, Any]) -> str:
    return f"{_name(document)} · {visible(document['model']['name'])}"


def _body(document: Mapping[str, Any]) -> str:
    how, layers = document["how"], document["layers"]
    parts = [
        lead(f"The model {known_words(document)}."),
        "<h2>Enrichment: what the subject comes to say</h2>",
        note(
            f"The share of the subject's own words among the first {how['k']} tokens that its last token says, by "
            "layer; dashed, the same for other subjects' words. Beside it without the MLPs of the first or the second "
            "half of the layers there."
        ),
        _charts(layers, [(_without(row), row["rate"], row["other"], None) for row in document["enrichment"]]),
        "<h2>Routing: what the end must see</h2>",
        note(
            f"How many nats the answer loses where the last position does not see a source, {how['window']} layers "
            f"at a time around each; the band is the least and the largest mean of {how['draws']} random sets of "
            "as many other positions."
        ),
        _charts(layers, [(row["source"], row["fall"], None, (row["low"], row["high"])) for row in document["routing"]]),
        _sources(document["routing"]),
        "<h2>Extraction: who fetches the attribute</h2>",
        note(
            "Of how many facts the answer is the first token of what attention writes at the last position, by layer; "
            "dashed, another fact's answer."
        ),
        _charts(layers, [("the answer", document["extraction"]["rate"], document["extraction"]["other"], None)]),
        _rates(document),
        *_votes(document["votes"]),
        *_map(document["map"]),
        *_low_rank(document["low_rank"]),
        "<h2>Facts</h2>",
        _facts(document["facts"]),
    ]
    return frame(document, "How is {} recalled?", _name(document), *parts)


def _without(row: Mapping[str, Any]) -> str:
    return "as it is" if row["without"] == "none" else f"without {row['without']}"


Curve = Sequence[float | None]


def _charts(
    layers: Sequence[int], curves: Sequence[tuple[str, Curve, Curve | None, tuple[Curve, Curve] | None]]
) -> str:
    drawn = []
    for words, line, beside, band in curves:
        some = any(value is not None for value in line)
        if not some or len(layers) < 2:
            drawn.append(f"<figure class='chart'><h3>{html.escape(words)}</h3>{note('Nothing to draw.')}</figure>")
            continue
        dashed = beside if beside is not None and any(value is not None for value in beside) else None
        shaded = band if band is not None and any(value is not None for value in band[0]) else None
        picture = curve_svg(f"{words}, by layer", [float(i) for i in layers], line, beside=dashed, band=shaded)
        drawn.append(f"<figure class='chart'><h3>{html.escape(words)}</h3>{picture}</figure>")
    return f"<div class='charts'>{''.join(drawn)}</div>"


def _sources(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [(row["source"], [cell(str(row["facts"])), cell(source_words(row))]) for row in rows]
    return rows_table(["source", "facts", "nats that it costs"], lines, faint=[not row["above"] for row in rows])


def _rates(document: Mapping[str, Any]) -> str:
    """The rates as numbers, layer by layer."""
    own, enriched = document["extraction"], document["enrichment"]
    shown = lambda value: cell("–" if value is None else percent(value))  # noqa: E731
    lines = []
    for i, layer in enumerate(document["layers"]):
        cells = [shown(row[name][i]) for row in enriched for name in ("rate", "other")]
        lines.append((str(layer), [*cells, shown(own["rate"][i]), shown(own["other"][i])]))
    heads = [name for row in enriched for name in (_without(row), "others")]
    return rows_table(["layer", *(f"{head}" for head in heads), "extraction", "others"], lines)


def _votes(votes: Mapping[str, Any] | None) -> list[str]:
    if votes is None:
        return []
    groups = [(row["group"], [cell(percent(row["alone"])), cell(signed(row["margin"]))]) for row in votes["groups"]]
    shown = lambda value: cell("–" if value is None else signed(value))  # noqa: E731
    names = ("subject", "relation", "first_token", "gives", "range", "elsewhere")
    heads = [(row["head"], [cell(row["kind"] or "–"), *(shown(row[name]) for name in names)]) for row in votes["heads"]]
    columns = ["kind", "from the subject", "from the relation", "from the first token", "in all"]
    return [
        "<h2>Votes: who speaks for the answer</h2>",
        lead(f"{votes_words(votes)[0].upper()}{votes_words(votes)[1:]}."),
        note(
            f"The share of facts whose answer a group alone prefers to the relation's {votes['candidates']} answers, "
            "by its direct share in their logits, and by how much on average. Heads are sorted on other facts."
        ),
        rows_table(["by themselves", "answer", "margin"], groups),
        note(
            "Heads that give the answer the most, in logits over the mean of the vocabulary, by the tokens that they "
            "read them from. A head of the relation gives its other answers nearly as much; one of the subject gives "
            "the answer where another relation is asked for too (elsewhere)."
        ),
        rows_table(["head", *columns, "other answers", "elsewhere"], heads),
    ]


def _map(fitted: Mapping[str, Any] | None) -> list[str]:
    if fitted is None:
        return []
    rates = [(row["reading"], [cell(percent(row["rate"]))]) for row in fitted["faithful"]]
    layers = [(str(row["layer"]), [cell(percent(row["rate"])), cell(f"{row['beta']:g}")]) for row in fitted["by_layer"]]
    facts = [
        (visible(row["prompt"]), [cell(visible(row["answer"])), cell("yes" if row["right"] else "no")])
        for row in fitted["facts_judged"]
    ]
    wrong = [not row["right"] for row in fitted["facts_judged"]]
    return [
        "<h2>As one affine map</h2>",
        *(note(f"{words[0].upper()}{words[1:]}.") for words in map_words(fitted)),
        rows_table(["read off", "says the answer"], rates),
        note("What the facts that choose say of each layer, with its best factor."),
        rows_table(["after layer", "says the answer", "beta"], layers),
        rows_table(["judged", "answer", "the map says it"], facts, faint=wrong),
    ]


def _low_rank(of_rank: Mapping[str, Any] | None) -> list[str]:
    if of_rank is None:
        return []
    words = low_rank_words(of_rank)
    shares = [
        (row["variant"], [cell(percent(row[name])) for name in ("right", "plausible", "other")])
        for row in of_rank["variants"]
    ]
    layers = [(str(row["layer"]), [cell(percent(row["accuracy"]))]) for row in of_rank["by_layer"]]
    return [
        "<h2>With one weight of low rank</h2>",
        *(note(f"{line[0].upper()}{line[1:]}.") for line in words),
        note(
            "What the facts that did not choose are answered with: the right object, another of the "
            f"{of_rank['objects']} objects here (wrong, but plausible), or anything else. Kept: the weight's largest "
            "components in its place; removed: the others; random: as many dimensions, drawn "
            f"{of_rank['draws']} times."
        ),
        rows_table(["weight", "right", "wrong, plausible", "other"], shares),
        note("How many of the facts that choose are right with the best weight and rank of each layer."),
        rows_table(["layer", "right"], layers),
    ]


def _facts(facts: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for fact in facts:
        words = "–" if fact["words"] is None else str(int(fact["words"]))
        cells = [
            cell(visible(fact["answer"])),
            cell(str(fact["rank"])),
            cell(signed(fact["log_prob"]) if fact["log_prob"] is not None else "–"),
            cell(visible(fact["says"])),
            cell(words),
        ]
        lines.append((visible(fact["prompt"]), cells))
    heads = ["fact", "answer", "rank", "log probability", "says", "subject's words"]
    return rows_table(heads, lines, faint=[not fact["known"] for fact in facts])


PAGE = Page(FACTS, _title, _body, ("page", "concept"))
