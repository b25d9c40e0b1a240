"""Probes as one HTML page that opens offline: a map of accuracy by layer and site, and each place with its interval.

A place's shade is how far it is from the commonest class to always right; the mark on its bar
is what shuffled labels give. Names never become markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caseback.reports.concepts.probe import PROBES
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, layer_map, lead, note, rows_table, share_bar
from caseback.views.page.page import Page

__all__ = ["probe_html"]


@checked
def probe_html(document: Mapping[str, Any]) -> str:
    """The probes of a document as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.concepts.probe.probe_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"{visible(document['label'])} · {visible(document['model']['name'])}"


def _body(document: Mapping[str, Any]) -> str:
    split, classes, majority = document["split"], document["classes"], document["majority"]
    best = max(document["places"], key=lambda row: row["accuracy"])
    shown = ", ".join(visible(c) for c in classes[:6]) + (", …" if len(classes) > 6 else "")
    words = (
        f"{len(classes)} classes ({shown}), read at {document['read']} by a {document['method']} probe. "
        f"It was fitted to {split['n_train']} examples; accuracy is on {split['n_test']} that were held out, best at "
        f"{best['name']}: {best['accuracy']:.3f} ({best['low']:.3f} to {best['high']:.3f}). "
        f"The commonest class alone gives {majority:.3f}."
    )
    drawn = layer_map(
        document["places"],
        [row["accuracy"] for row in document["places"]],
        "Accuracy; layer 0 at the bottom",
        empty=majority,
    )
    parts = [lead(words), drawn and f"<h2>By layer and site</h2>{drawn}"]
    parts.append(f"<h2>Every place</h2>{_bars(list(reversed(document['places'])), majority)}")
    if document["baselines"]:
        parts += [
            "<h2>Compared with</h2>",
            note(
                "Words alone, the embedding of the token, and the layers of an untrained model: what these tell too "
                "was not learned by the layers."
            ),
            _bars(document["baselines"], majority),
        ]
    parts.append(
        note(
            "Bars: accuracy; the thin line its 95 % interval over held-out groups; the dashed line the commonest "
            "class; the notch what the same probe gives for shuffled labels. That a label is readable does not say "
            "that the model uses it: that takes an intervention."
        )
    )
    return frame(document, "Is {} readable?", visible(document["label"]), *parts)


def _bars(rows: Sequence[Mapping[str, Any]], majority: float) -> str:
    lines = []
    for row in rows:
        numbers = cell(f"{row['accuracy']:.3f}", small=f"{row['low']:.3f}–{row['high']:.3f}")
        rest = [cell(f"{row[name]:.3f}") for name in ("shuffled", "train_accuracy")]
        bar = share_bar(row["accuracy"], row["low"], row["high"], majority, row["shuffled"])
        lines.append((row["name"], [f"<td>{bar}</td>", numbers, *rest]))
    return rows_table(["", "", "accuracy", "shuffled", "on training"], lines)


PAGE = Page(PROBES, _title, _body, ("page", "concept"))
