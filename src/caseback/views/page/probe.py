"""Probes as one HTML page that opens offline: a map of accuracy by layer and site, and each place with its interval.

The page has no script. A place's shade is how far it is from the commonest class to always right; the mark on its bar
is what shuffled labels give. Names never become markup.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from caseback.reports.concepts.probe import PROBES
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.page.page import Page

__all__ = ["probe_html"]

_SHADES = 10


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
    split, classes = document["split"], document["classes"]
    best = max(document["places"], key=lambda row: row["accuracy"])
    shown = ", ".join(visible(c) for c in classes[:6]) + (", …" if len(classes) > 6 else "")
    words = (
        f"{len(classes)} classes ({shown}), read at {document['read']} by a {document['method']} probe. "
        f"It was fitted to {split['n_train']} examples; accuracy is on {split['n_test']} that were held out, best at "
        f"{best['name']}: {best['accuracy']:.3f} ({best['low']:.3f} to {best['high']:.3f}). "
        f"The commonest class alone gives {document['majority']:.3f}."
    )
    parts = [
        f"<main class='probe'><h1>Is <em>{html.escape(visible(document['label']))}</em> readable?</h1>",
        f"<p class='lead'>{html.escape(words)}</p>",
        _map(document),
        f"<h2>Every place</h2>{_bars(list(reversed(document['places'])), document['majority'])}",
    ]
    if document["baselines"]:
        parts += [
            "<h2>Compared with</h2><p>Words alone, the embedding of the token, and the layers of an untrained "
            "model: what these tell too was not learned by the layers.</p>",
            _bars(document["baselines"], document["majority"]),
        ]
    parts.append(
        "<p class='note'>Bars: accuracy; the thin line its 95 % interval over held-out groups; the dashed line the "
        "commonest class; the notch what the same probe gives for shuffled labels. That a label is readable does not "
        "say that the model uses it: that takes an intervention.</p></main>"
    )
    return "".join(parts)


def _map(document: Mapping[str, Any]) -> str:
    """Layers upwards, sites side by side; of a site with heads the best head."""
    layered = [row for row in document["places"] if row["layer"] is not None]
    if not layered:
        return ""
    sites = list(dict.fromkeys(row["site"] for row in layered))
    layers = sorted({row["layer"] for row in layered}, reverse=True)
    cells: dict[tuple[int, str], Mapping[str, Any]] = {}
    for row in layered:
        key = (row["layer"], row["site"])
        if key not in cells or row["accuracy"] > cells[key]["accuracy"]:
            cells[key] = row
    head = "".join(f"<th scope='col'>{html.escape(site)}</th>" for site in sites)
    lines = []
    for layer in layers:
        drawn = "".join(_cell(cells.get((layer, site)), document["majority"]) for site in sites)
        lines.append(f"<tr><th scope='row'>{layer}</th>{drawn}</tr>")
    heads = any(row["head"] is not None for row in layered)
    note = "; of heads the best" if heads else ""
    return (
        "<h2>By layer and site</h2><div class='probe-scroll'><table class='probe-map'>"
        f"<caption>Accuracy{note}; layer 0 at the bottom</caption>"
        f"<thead><tr><th>layer</th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(row: Mapping[str, Any] | None, majority: float) -> str:
    if row is None:
        return "<td></td>"
    above = max(0.0, row["accuracy"] - majority) / max(1 - majority, 1e-9)
    title = f"{row['name']}: {row['accuracy']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
    return f"<td class='s{round(_SHADES * above)}' title='{html.escape(title)}'>{row['accuracy']:.2f}</td>"


def _bars(rows: Sequence[Mapping[str, Any]], majority: float) -> str:
    lines = []
    for row in rows:
        numbers = f"{row['accuracy']:.3f} <small>{row['low']:.3f}–{row['high']:.3f}</small>"
        lines.append(
            f"<tr><th scope='row'>{html.escape(row['name'])}</th><td class='drawn'>{_bar(row, majority)}</td>"
            f"<td>{numbers}</td><td>{row['shuffled']:.3f}</td><td>{row['train_accuracy']:.3f}</td></tr>"
        )
    return (
        "<div class='probe-scroll'><table class='probe-bars'><thead><tr><th></th><th></th><th>accuracy</th>"
        f"<th>shuffled</th><th>on training</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _bar(row: Mapping[str, Any], majority: float) -> str:
    """An accuracy from 0 to 1 as a drawing of 200 by 14."""
    x = {name: 200 * row[name] for name in ("accuracy", "low", "high", "shuffled")}
    return (
        f"<svg viewBox='0 0 200 14' width='200' height='14' role='img' aria-label='{row['accuracy']:.3f}'>"
        f"<rect class='track' width='200' height='14'/><rect class='fill' width='{x['accuracy']:.1f}' height='14'/>"
        f"<line class='majority' x1='{200 * majority:.1f}' x2='{200 * majority:.1f}' y1='0' y2='14'/>"
        f"<line class='between' x1='{x['low']:.1f}' x2='{x['high']:.1f}' y1='7' y2='7'/>"
        f"<path class='notch' d='M{x['shuffled']:.1f} 9l-3 5h6z'/></svg>"
    )


PAGE = Page(PROBES, _title, _body, ("page", "probe"))
