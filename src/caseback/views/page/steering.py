"""Steering as one HTML page that opens offline: the curve of dose and response, and what is written, side by side.

Tokens are shaded by where the plain model's states of them lie along the direction, orange
toward the class that is added and blue away from it; texts never become markup.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import numpy as np

from caseback.reports.concepts.steering import STEERING
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, signed
from caseback.views.page.kit.curve_svg import curve_svg
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table, signed_class, tone_key
from caseback.views.page.page import Page
from caseback.views.text.concepts.steering import condition_words, left_alone

__all__ = ["steering_html"]

_CHARTS = {
    "effect": "Effect: {metric}",
    "kl": "KL of the next token from no steering, nats",
    "perplexity": "Perplexity of plain text",
}
_TOKENS = {"all": "all tokens", "prompt": "the prompt's tokens", "generated": "generated tokens"}
_FULL = 95
"""The percentile of a token's distance that has the full shade."""


@checked
def steering_html(document: Mapping[str, Any]) -> str:
    """A document of steering as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.steering.steering_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _classes(document: Mapping[str, Any]) -> tuple[str, str]:
    negative, positive = (visible(name) for name in document["direction"]["classes"])
    return negative, positive


def _title(document: Mapping[str, Any]) -> str:
    return f"toward {_classes(document)[1]} · {visible(document['model']['name'])}"


def _body(document: Mapping[str, Any]) -> str:
    parts = [lead(_words(document)), _curves(document)]
    if any(text["tokens"] for row in document["continuations"] for text in row["read"]):
        parts.append(_texts(document))
    parts.append(f"<h2>Every dose</h2>{_doses(document)}")
    return frame(document, "What does adding {} do?", _classes(document)[1], *parts)


def _words(document: Mapping[str, Any]) -> str:
    """What is added, and what the curve comes to."""
    dose, (negative, positive) = document["dose"], _classes(document)
    places = document["direction"]["places"]
    where = ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
    size = "a state's mean length" if document["unit"] == "norm" else document["direction"]["difference"]
    fine = [i for i, at in enumerate(dose["dose"]) if not _beyond(document, at) and dose["effect"][i] is not None]
    first, last = fine[0], fine[-1]
    lines = [
        f"From {negative} to {positive}, at {where}, in {visible(document['model']['name'])}: added to "
        f"{_TOKENS[document['where']]}, where a dose of 1 is {size}. {_sentence(document['metric'])} "
    ]
    doubled = [signed(at) for at in (dose["doubles_below"], dose["doubles_above"]) if at is not None]
    if first == last:
        lines.append(
            f"is {signed(dose['effect'][first])} unsteered; the perplexity of plain text doubles at "
            f"{' and '.join(doubled)}, nearer than the least of these doses."
        )
    else:
        lines.append(_rise(dose, first, last))
        if doubled:
            at = " and ".join(doubled)
            lines.append(f" These are the doses before the perplexity of plain text doubles, which is at {at}.")
        elif "perplexity" in dose:
            lines.append(" The perplexity of plain text doubles at none of these doses.")
    if (condition := document.get("condition")) is not None:
        lines.append(f" {condition_words(condition)}")
    return "".join(lines)


def _rise(dose: Mapping[str, Any], first: int, last: int) -> str:
    """From where to where the effect goes between two doses, and random vectors' beside it."""
    ends = [
        f"{signed(dose['effect'][first])} at {signed(dose['dose'][first])} to {signed(dose['effect'][last])} at "
        f"{signed(dose['dose'][last])}"
    ]
    if "control_effect" in dose and None not in (dose["control_effect"][first], dose["control_effect"][last]):
        ends.append(
            f"random vectors of that length, on average, from {signed(dose['control_effect'][first])} to "
            f"{signed(dose['control_effect'][last])}"
        )
    return f"goes from {'; '.join(ends)}{'.' if dose['monotone'] else ', and turns round on the way.'}"


def _sentence(words: str) -> str:
    return f"The {words}" if words.startswith("logit") else words[:1].upper() + words[1:]


def _beyond(document: Mapping[str, Any], at: float) -> bool:
    """Whether plain text costs more than twice as much at a dose."""
    low, high = document["dose"]["doubles_below"], document["dose"]["doubles_above"]
    return (low is not None and at < low) or (high is not None and at > high)


def _curves(document: Mapping[str, Any]) -> str:
    dose = document["dose"]
    drawn = []
    for name, words in _CHARTS.items():
        if name not in dose:
            continue
        caption = words.format(metric=document["metric"])
        control = f"control_{name}"
        picture = curve_svg(
            f"{caption}, by dose",
            dose["dose"],
            dose[name],
            beside=dose.get(control),
            band=(dose[f"{control}_low"], dose[f"{control}_high"]) if control in dose else None,
            edges=(dose["doubles_below"], dose["doubles_above"]),
            log=name == "perplexity",
        )
        drawn.append(f"<figure class='chart'><h3>{html.escape(caption)}</h3>{picture}</figure>")
    keys = [("<path class='steered' d='M0 6h26'/>", "steered")]
    if dose["n_random"]:
        draws = f"{dose['n_random']} random vectors of that length: mean, least and largest"
        keys.append(("<rect class='random-band' width='26' height='12'/><path class='random' d='M0 6h26'/>", draws))
    if dose["doubles_below"] is not None or dose["doubles_above"] is not None:
        keys.append(("<rect class='beyond' width='26' height='12'/>", "perplexity has more than doubled"))
    key = "".join(
        f"<span><svg width='26' height='12' aria-hidden='true'>{drawing}</svg>{html.escape(words)}</span>"
        for drawing, words in keys
    )
    return f"<h2>Dose and response</h2><div class='charts'>{''.join(drawn)}</div><p class='key'>{key}</p>"


def _texts(document: Mapping[str, Any]) -> str:
    negative, positive = _classes(document)
    sizes = [abs(x) for row in document["continuations"] for text in row["read"] for x in text["toward"]]
    full = float(np.percentile(sizes, _FULL)) or 1.0
    parts = [
        "<h2>What is written</h2>",
        note(
            "Tokens are shaded by where they lie along the direction as the model without it reads the text, so it is "
            "the words that are judged and not what was added: 0 is the mean of the unsteered texts, 1 "
            f"{document['direction']['difference']}."
        ),
        tone_key(f"toward {negative}", f"toward {positive}", -full, full),
    ]
    names = ["unsteered", *(f"{signed(strength)}" for strength in document["strengths"])]
    order = sorted(range(len(names)), key=lambda i: 0.0 if i == 0 else document["strengths"][i - 1])
    condition = document.get("condition")
    for b, row in enumerate(document["continuations"]):
        left = "" if condition is None or condition["met"][b] else f" ({left_alone(condition, b)})"
        cards = "".join(_text(document, names[i], i, row["read"][i], full) for i in order)
        prompt = html.escape(_shown(row["prompt"]))
        parts.append(
            f"<div class='written'><p>{prompt} …{html.escape(left)}</p><div class='columns'>{cards}</div></div>"
        )
    return "".join(parts)


def _text(document: Mapping[str, Any], name: str, number_of: int, text: Mapping[str, Any], full: float) -> str:
    spans = "".join(
        f"<span class='{signed_class(x / full)}' title='{html.escape(f'{visible(token)} {signed(x)}')}'>"
        f"{html.escape(_shown(token))}</span>"
        for token, x in zip(text["tokens"], text["toward"], strict=True)
    )
    mean = f"on average {signed(float(np.mean(text['toward'])))}" if text["toward"] else "nothing is written"
    if number_of and _beyond(document, document["strengths"][number_of - 1]):
        mean += "; beyond the dose at which perplexity doubles"
    return f"<section class='one-text'><h3>{html.escape(name)}</h3><p class='text'>{spans}</p>{note(mean)}</section>"


def _shown(text: str) -> str:
    """A token's text as it is written, but what cannot be seen, and a line's end where it is."""
    return visible(text).replace("␣", " ").replace("↵", "↵\n") if text else ""


def _doses(document: Mapping[str, Any]) -> str:
    dose = document["dose"]
    names = {"effect": "effect", "kl": "KL", "perplexity": "perplexity"}
    shown = [name for name in names if name in dose]
    heads = ["dose"]
    for name in shown:
        heads += [names[name], "random vectors"] if f"control_{name}" in dose else [names[name]]
    rows = []
    for i, at in enumerate(dose["dose"]):
        cells = []
        for name in shown:
            cells.append(cell(_number(dose[name][i])))
            if (control := f"control_{name}") in dose:
                ends = [_number(dose[f"{control}_{end}"][i]) for end in ("low", "high")]
                cells.append(cell(_number(dose[control][i]), small=" to ".join(ends)))
        rows.append((signed(at), cells))
    return rows_table(heads, rows, faint=[_beyond(document, at) for at in dose["dose"]])


def _number(value: float | None) -> str:
    return "–" if value is None else number(value)


PAGE = Page(STEERING, _title, _body, ("page", "concept"))
