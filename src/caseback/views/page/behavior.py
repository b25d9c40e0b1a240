"""Behaviors as one HTML page that opens offline: margins, roles with their heads, places of the stream, transfers.

Shares of the stream are shaded as explanations are: orange where the place carries the answer.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from caseback.reports.behavior import BEHAVIOR
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, percent, signed
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table, signed_class
from caseback.views.page.page import Page
from caseback.views.text.behavior import behavior_words, transfer_words

__all__ = ["behavior_html"]

_HEADS = (
    "Score: mean attention to the role's place, or the effect where it has none; control: the same where the relation "
    "is absent, and the band past which it is more than that, with so many candidates. Effect: how far the task's "
    "measure falls under the role's intervention, with its standard error; random: the 95 % quantile of parts of like "
    "depth. All on held-out prompts."
)
_PLACES = (
    "What of the margin is lost, as a share, where one place of the stream is the counterfactual's before a layer, and "
    "nothing else is."
)
_TRANSFERS = (
    "Of prompts without the function: the answer without the vector, with it, under random vectors of its norm (95 % "
    "quantile), under another function's, and with all examples shown. Of sets of pairs: the foil of their prompts, "
    "without and with the vectors of a set's heads, under random ones, under other heads', and in the counterfactuals."
)


@checked
def behavior_html(document: Mapping[str, Any]) -> str:
    """A document of behaviors as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.behavior.behavior_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _names(document: Mapping[str, Any]) -> str:
    names = [one["behavior"] for one in document["behaviors"]]
    return names[0] if len(names) == 1 else f"{len(names)} behaviors"


def _title(document: Mapping[str, Any]) -> str:
    return f"{_names(document)} · {visible(document['model']['name'])}"


def _body(document: Mapping[str, Any]) -> str:
    behaviors = document["behaviors"]
    present = sum(one["present"] for one in behaviors)
    parts = [lead(f"{present} of {len(behaviors)} present.")]
    if len(behaviors) > 1:
        parts.append(_summary(behaviors))
    for one in behaviors:
        parts += _behavior(one)
    pairs = [pair for pair in document["overlaps"] if pair["shared"]]
    if pairs:
        parts += ["<h2>Proved heads in common</h2>", _overlaps(pairs)]
    return frame(document, "Who does {}?", _names(document), *parts)


def _summary(behaviors: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in behaviors:
        margin = one["margin"]
        proved = dict.fromkeys(head["component"] for head in one["heads"] if head["grade"] == "proved")
        cells = [
            cell(f"{signed(margin['clean'])} ± {number(margin['error'])}", small=margin["measure"]),
            cell(signed(margin["band"])),
            cell(percent(margin["right"])),
            cell("present" if one["present"] else "absent"),
            cell(", ".join(proved)),
        ]
        rows.append((one["behavior"], cells))
    return rows_table(["", "margin", "shuffled", "right", "", "proved"], rows)


def _behavior(one: Mapping[str, Any]) -> list[str]:
    example = one["example"]
    foil = f", not {visible(example['foil'])}" if example["foil"] else ""
    parts = [
        f"<h2>{html.escape(one['behavior'])}</h2>",
        lead(f"{one['about']} {behavior_words(one)}."),
        note(f"For instance: {visible(example['clean'])} → {visible(example['target'])}{foil}"),
        note(f"Its counterfactual: {visible(example['corrupt'])}"),
    ]
    if one["roles"]:
        parts += [_roles(one["roles"]), note(_HEADS), _heads(one["heads"])]
    if one["carried"] is not None:
        parts += [note(_PLACES), _places(one["carried"])]
    if one["transfers"]:
        parts += [note(_TRANSFERS), _transfers(one["transfers"])]
    return parts


def _roles(roles: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for role in roles:
        group = "–"
        if role["together"] is not None:
            group = signed(role["together"])
        beside = "" if role["together_band"] is None else f"random sets {signed(role['together_band'])}"
        where = f"{role['at']} → {role['to']}" if role["to"] else role["at"]
        counts = role["missing"] or f"{role['proved']} of {role['candidates']}"
        cells = [cell(role["about"]), cell(where), cell(role["proof"])]
        rows.append((role["name"], [*cells, cell(counts), cell(group, small=beside)]))
    return rows_table(["role", "what it does", "where", "what proves it", "proved", "together"], rows)


def _heads(heads: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in heads:
        cells = [
            cell(one["kind"]),
            *(cell(number(one[name])) for name in ("score", "control", "band")),
            cell(f"{signed(one['effect'])} ± {number(one['draw']['error'])}", small=one["unit"]),
            cell(signed(one["draw"]["random"]), small=f"of {one['draw']['random_parts']}"),
            cell(" ".join([one["grade"], one["draw"].get("proved_by", "")]).strip()),
        ]
        rows.append((one["component"], cells))
    heads_of = ["", "role", "score", "control", "band", "effect", "random", "verdict"]
    return rows_table(heads_of, rows, faint=[one["grade"] != "proved" for one in heads])


def _places(carried: Mapping[str, Any]) -> str:
    rows = [
        (place, [cell(f"{share:.2f}", more=f"class='{signed_class(share)}'") for share in shares])
        for place, shares in zip(carried["places"], carried["shares"], strict=True)
    ]
    return rows_table(["before layer", *map(str, carried["layers"])], rows)


def _transfers(transfers: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in transfers:
        for name, shown in (("log_prob", signed), ("accuracy", percent)):
            of = [one["by"][name][key] for key in ("without", "with", "band", "other", "shown")]
            cells = [cell("–" if value is None else shown(value)) for value in of]
            verdict = cell(transfer_words(one) if name == "log_prob" else "")
            title = f"{one['vector']}, {one['prompts']}, layer {one['layer']}: {name}"
            rows.append((title, [*cells, verdict]))
    return rows_table(["", "without", "with it", "random", "other", "examples", ""], rows)


def _overlaps(pairs: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            f"{pair['first']} and {pair['second']}",
            [
                cell(", ".join(pair["shared"]) or "none"),
                cell(f"{pair['sizes'][0]} and {pair['sizes'][1]}"),
                cell(f"{pair['jaccard']:.2f}"),
                cell(f"{pair['chance']:.2f}", small=f"band {pair['band']:.2f}"),
                cell(number(pair["p"])),
            ],
        )
        for pair in pairs
    ]
    return rows_table(["", "shared", "of", "Jaccard", "chance", "p"], rows)


PAGE = Page(BEHAVIOR, _title, _body, ("page", "concept"))
