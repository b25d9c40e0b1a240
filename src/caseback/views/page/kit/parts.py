"""What the pages that are written as HTML have in common: tables, maps by layer and site, and signed shades.

Since a page's policy allows no style of an element's own, shades are classes: ``s0`` to
``s10`` of one color, ``target v0`` to ``foil v10`` of two.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from caseback.reports.document import checked, drawn_from
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import signed

__all__ = ["cell", "layer_map", "lead", "note", "rows_table", "share_bar", "signed_class", "token_strip", "tone_key"]

SHADES = 10
_LONG = 30  # characters that would make a cell too narrow to read, or too wide
_WORDS = re.compile(r"[^\W\d_]|[^\d\s]*[^\W\d_].*\s")  # begins with a letter, or with a mark and then words


@checked
def lead(words: str) -> str:
    """The sentences under a heading, as text."""
    return f"<p class='lead'>{html.escape(words)}</p>"


@checked
def note(words: str) -> str:
    """A remark, as text."""
    return f"<p class='note'>{html.escape(words)}</p>"


@checked
def cell(text: str, *, small: str = "", more: str = "", title: str = "") -> str:
    """A cell of a table: its text, smaller text behind it, attributes that are HTML already, what a pointer shows.

    Words stand to the left, numbers to the right.

    Examples
    --------
    >>> cell("0.9", small="0.8–1.0"), cell("proved")
    ('<td>0.9 <small>0.8–1.0</small></td>', "<td class='words'>proved</td>")
    """
    shown = html.escape(text) + (f" <small>{html.escape(small)}</small>" if small else "")
    if not more and _WORDS.match(text):
        more = "class='words long'" if len(text) > _LONG else "class='words'"
    pointed = f" title='{html.escape(title)}'" if title else ""
    return f"<td{more and ' ' + more}{pointed}>{shown}</td>"


@checked
@drawn_from("a table of rows", "the report")
def rows_table(heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], *, faint: Sequence[bool] = ()) -> str:
    """A table that scrolls sideways in a narrow window.

    Parameters
    ----------
    heads
        Of the columns, as text; the first is above the rows' names.
    rows
        Each a name as text, and cells as HTML.
    faint
        Which rows are drawn faintly; none by default.

    Examples
    --------
    >>> rows_table(["place", "rank"], [("a<b", [cell("1")])]).partition("<tbody>")[2]
    "<tr><th scope='row'>a&lt;b</th><td>1</td></tr></tbody></table></div>"
    """
    rows = list(rows)
    wordy = [False, *(cell.startswith("<td class='words") for cell in (rows[0][1] if rows else ()))]
    wordy += [False] * (len(heads) - len(wordy))
    head = "".join(
        f"<th scope='col'{' class=' + repr('words') if words else ''}>{html.escape(name)}</th>"
        for name, words in zip(heads, wordy, strict=False)
    )
    lines = []
    for i, (name, cells) in enumerate(rows):
        beyond = " class='beyond'" if i < len(faint) and faint[i] else ""
        lines.append(f"<tr{beyond}><th scope='row'>{html.escape(name)}</th>{''.join(cells)}</tr>")
    return f"<div class='sideways'><table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"


@checked
@drawn_from("a map of places", "the report")
def layer_map(
    rows: Sequence[Mapping[str, Any]], values: Sequence[float], caption: str, *, empty: float = 0.0, full: float = 1.0
) -> str:
    """Layers upwards, sites side by side, as a table; of a site with heads the head of the largest value.

    Parameters
    ----------
    rows
        Each with ``name``, ``site``, ``layer`` and ``head``; those without a layer are left out.
    values
        What a cell shows, one for each row.
    caption
        What is drawn, as text.
    empty, full
        The values that have no shade and all of it.

    Examples
    --------
    >>> row = {"name": "resid_post.0", "site": "resid_post", "layer": 0, "head": None}
    >>> "class='s5'" in layer_map([row], [0.75], "accuracy", empty=0.5)
    True
    """
    layered = [(row, value) for row, value in zip(rows, values, strict=True) if row["layer"] is not None]
    if not layered:
        return ""
    sites = list(dict.fromkeys(row["site"] for row, _ in layered))
    best: dict[tuple[int, str], tuple[str, float]] = {}
    for row, value in layered:
        key = (row["layer"], row["site"])
        if key not in best or value > best[key][1]:
            best[key] = row["name"], value
    head = "".join(f"<th scope='col'>{html.escape(site)}</th>" for site in sites)
    lines = []
    for layer in sorted({layer for layer, _ in best}, reverse=True):
        cells = []
        for site in sites:
            name, value = best.get((layer, site), ("", None))
            share = 0.0 if value is None else (value - empty) / max(full - empty, 1e-9)
            step = round(SHADES * min(1.0, max(0.0, share)))
            shown = {"more": f"class='s{step}'", "title": f"{visible(name)}: {value:.3f}"} if value is not None else {}
            cells.append(cell("" if value is None else f"{value:.2f}", **shown))
        lines.append(f"<tr><th scope='row'>{layer}</th>{''.join(cells)}</tr>")
    more = "; of heads the best" if any(row["head"] is not None for row, _ in layered) else ""
    return (
        f"<div class='sideways'><table class='map'><caption>{html.escape(caption)}{more}</caption>"
        f"<thead><tr><th>layer</th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


@checked
def share_bar(share: float, low: float, high: float, dashed: float, notch: float | None) -> str:
    """A share of 1 as a drawing of 200 by 14, with its interval, a dashed line and a notch below; None draws no notch.

    Examples
    --------
    >>> share_bar(0.5, 0.4, 0.6, 0.25, None).count("<line")
    2
    """
    across = {"share": share, "low": low, "high": high, "dashed": dashed}
    x = {name: f"{200 * value:.1f}" for name, value in across.items()}
    below = "" if notch is None else f"<path class='notch' d='M{200 * notch:.1f} 9l-3 5h6z'/>"
    return (
        f"<svg class='bar-of' viewBox='0 0 200 14' width='200' height='14' role='img' aria-label='{share:.3f}'>"
        f"<rect class='track' width='200' height='14'/><rect class='fill' width='{x['share']}' height='14'/>"
        f"<line class='majority' x1='{x['dashed']}' x2='{x['dashed']}' y1='0' y2='14'/>"
        f"<line class='between' x1='{x['low']}' x2='{x['high']}' y1='7' y2='7'/>{below}</svg>"
    )


@checked
def signed_class(share: float) -> str:
    """The classes of a shade: orange above 0, blue below, full at 1 and −1.

    Examples
    --------
    >>> signed_class(0.5), signed_class(-2.0), signed_class(0.0)
    ('toned target v5', 'toned foil v10', 'toned target v0')
    """
    step = round(SHADES * min(1.0, abs(share)))
    return f"toned {'foil' if share < 0 else 'target'} v{step}"


@checked
@drawn_from("scores of tokens", "the report")
def token_strip(texts: Sequence[str], values: Sequence[float]) -> str:
    """Tokens in a row, each shaded by its share of the largest in size, its value where a pointer rests.

    Examples
    --------
    >>> token_strip(["a", "b"], [2.0, -1.0]).count("toned")
    2
    """
    most = max(map(abs, values), default=0.0) or 1.0
    tokens = (
        f"<span class='{signed_class(value / most)}' title='{signed(value)}'>{html.escape(visible(text))}</span>"
        for text, value in zip(texts, values, strict=True)
    )
    return f"<p class='text'>{' '.join(tokens)}</p>"


@checked
def tone_key(less: str, more: str, least: float, most: float) -> str:
    """A strip of the signed shades from ``least`` to ``most``, between what they speak for.

    Examples
    --------
    >>> tone_key("sad", "happy", -1.0, 1.0).count("<i ")
    11
    """
    steps = "".join(f"<i class='{signed_class(step / 5)}'></i>" for step in range(-5, 6))
    words = [html.escape(f"{name} {signed(at)}") for name, at in ((less, least), (more, most))]
    return f"<p class='key'><span>{words[0]} <span class='strip-of'>{steps}</span> {words[1]}</span></p>"
