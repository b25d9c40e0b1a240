"""The main numbers of an explanation as plain HTML tables, for readers and programs without JavaScript."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from caseback.reports.document import checked
from caseback.reports.explain_checks import verdict_of
from caseback.reports.tables.components_table import ranked_components
from caseback.reports.tables.lens_rows import BEFORE_ANY_LAYER
from caseback.reports.tables.strongest_places import strongest_places
from caseback.reports.tokens_text import visible
from caseback.views.page.kit.tables import table

__all__ = ["static_tables"]

_LARGEST = 24
_VERDICTS = {"held": "yes", "weak": "weakly", "failed": "NO"}


@checked
def static_tables(explanation: Mapping[str, Any]) -> str:
    """The predictions, lens, inputs, components and checks of a checked explanation document, as tables.

    Returns
    -------
    str
        HTML in which every text of the document is escaped and made visible.
    """
    target, foil = (visible(explanation[key]["text"]) for key in ("target", "foil"))
    position, lens = explanation["position"], explanation["lens"]
    metric = explanation["metric"]["value"]
    parts = [
        f"<h1>Why {html.escape(target)} and not {html.escape(foil)}?</h1>",
        f"<p>{html.escape(visible(explanation['model']['name']))}: logit difference {metric:+.4f}. "
        "The figures of this page need JavaScript; these are its main numbers.</p>",
        f"<pre dir='auto'>{html.escape(_lines(explanation['prompt']))}</pre>",
        *_story(explanation),
        table(
            "Next token",
            ("token", "probability", "logit"),
            (
                (visible(token["text"]), f"{token['prob']:.4f}", f"{token['logit']:.3f}")
                for token in explanation["predictions"]
            ),
        ),
        table(
            f"What each layer already knew, at position {position}",
            ("after", "top token", "p", f"p({target})", "rank", f"p({foil})", "rank", "logit difference"),
            (
                (
                    f"{layer} (the token itself)" if layer == BEFORE_ANY_LAYER else layer,
                    visible(lens["top_text"][row][position][0]),
                    f"{lens['top_prob'][row][position][0]:.4f}",
                    f"{lens['target_prob'][row][position]:.4f}",
                    str(lens["target_rank"][row][position]),
                    f"{lens['foil_prob'][row][position]:.4f}",
                    str(lens["foil_rank"][row][position]),
                    f"{lens['logit_diff'][row]:+.3f}",
                )
                for row, layer in enumerate(lens["layers"])
            ),
        ),
        _inputs(explanation),
        _components(explanation),
        *([_patching(explanation)] if explanation["patching"] else []),
        _checks(explanation),
    ]
    return "\n".join(parts)


def _story(explanation: Mapping[str, Any]) -> list[str]:
    story = explanation["story"]
    if story is None:
        return []
    tokens = explanation["tokens"]
    paragraph = " ".join(html.escape(sentence["text"]) for sentence in story["sentences"])
    hops = (
        (
            str(hop["pos"]),
            visible(tokens[hop["pos"]]["text"]),
            f"{hop['first']}–{hop['last']}",
            f"{hop['share']:.3f}",
        )
        for hop in story["hops"]
    )
    parts = (
        (part["name"], part["role"], *(f"{part[name]:+.3f}" for name in ("denoising", "noising")))
        for part in story["parts"]
    )
    checks = ((check["name"], _VERDICTS[verdict_of(check)], f"{check['value']:.3f}") for check in story["checks"])
    return [
        f"<p>{paragraph}</p>",
        table("Places that carry it", ("position", "token", "before layers", "share"), hops),
        table("Parts that carry it", ("part", "role", "denoising", "noising"), parts),
        table("Elsewhere", ("check", "held", "value"), checks),
    ]


def _inputs(explanation: Mapping[str, Any]) -> str:
    methods = explanation["inputs"]["methods"]
    rows = (
        (str(index), visible(token["text"]), *(f"{method['scores'][index]:+.4f}" for method in methods))
        for index, token in enumerate(explanation["tokens"])
    )
    return table("Which inputs", ("position", "token", *(method["label"] for method in methods)), rows)


def _components(explanation: Mapping[str, Any]) -> str:
    effects = {row["name"]: row["effect"] for row in explanation["ablations"]["rows"]}
    rows = (
        (name, f"{effects[name]:+.4f}" if name in effects else "not measured", f"{value:+.4f}")
        for name, value in ranked_components(explanation["components"], effects)[:_LARGEST]
    )
    kind = explanation["ablations"]["kind"]
    return table("Which components", ("component", f"{kind}-ablation effect", "direct attribution"), rows)


def _patching(explanation: Mapping[str, Any]) -> str:
    rows = (
        (what, where, f"{value:+.3f}") for what, where, value in strongest_places(explanation["patching"], _LARGEST)
    )
    return table("Where the answer comes back", ("patched", "at", "recovered"), rows)


def _checks(explanation: Mapping[str, Any]) -> str:
    rows = (
        (check["name"], _VERDICTS[verdict_of(check)], *_value_and_limit(check), check["detail"])
        for check in explanation["checks"]
    )
    return table("Checks", ("check", "held", "value", "limit", "detail"), rows)


def _value_and_limit(check: Mapping[str, Any]) -> tuple[str, str]:
    return f"{check['value']:.3g}", f"{check['limit']:.3g}"


def _lines(prompt: str) -> str:
    """The prompt with its spaces and line breaks as they are, and all other invisible characters made visible."""
    return "\n".join("" if not line else visible(line).replace("␣", " ") for line in prompt.split("\n"))
