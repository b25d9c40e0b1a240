"""An atlas as one HTML page that opens offline: a map, heads by label, kinds with their controls, candidates.

Every labeled head and every candidate has an address (``#L2H0``), so that one can point at it. With JavaScript there is
a map of any kind's scores (``#kind=induction``) and a card for every unit (``#unit=L2H0``).
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence, Set
from typing import Any

from caseback.reports.atlas import ATLAS
from caseback.reports.document import checked
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, signed
from caseback.views.page.kit.frame import frame
from caseback.views.page.kit.parts import cell, lead, note, rows_table
from caseback.views.page.page import Page

__all__ = ["atlas_html"]


@checked
def atlas_html(document: Mapping[str, Any]) -> str:
    """A document of an atlas as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.atlas.atlas_document`` returns.

    Returns
    -------
    str
        HTML.
    """
    return PAGE.html(document)


def _title(document: Mapping[str, Any]) -> str:
    return f"Atlas of {visible(str(document['model']['name']))}"


def _body(document: Mapping[str, Any]) -> str:
    facts = document["model"]
    looked = [kind for kind in document["kinds"] if not kind["missing"]]
    proved = [one for one in document["candidates"] if one["grade"] == "proved"]
    words = (
        f"{facts.get('layers')} layers, {facts.get('heads')} heads, {facts.get('tokens', 0):,} tokens of text. "
        f"{len(looked)} kinds were looked for; {len(document['units'])} heads have a label, and "
        f"{len({one['component'] for one in proved})} units have one that an intervention proves."
    )
    parts = [lead(words)]
    if left := facts.get("left out"):
        parts.append(note(f"Made within {facts['budget']:.0f} seconds. Left out for that: {left}."))
    if any(kind["sort"] == "head" for kind in looked):
        heads = _looked_for(document, "head")
        parts += ["<h2>Heads by label</h2>", note(_KEY), _map(document, document["units"], "head"), _legend(heads)]
    if document["experts"]:
        parts += ["<h2>Experts by label</h2>", note(_EXPERTS), _map(document, document["experts"], "expert")]
        parts.append(_legend(_looked_for(document, "expert")))
    parts += ["<h2>Kinds</h2>", note(_KINDS), _kinds(document)]
    if missing := [kind for kind in document["kinds"] if kind["missing"]]:
        rows = [(kind["kind"], [cell(kind["missing"])]) for kind in missing]
        parts += ["<h2>Not looked for</h2>", rows_table(["kind", "why"], rows)]
    parts += ["<h2>Candidates</h2>", note(_CANDIDATES)]
    experts = [unit for unit in document["experts"] if unit["labels"]]
    named = {unit["name"] for unit in [*document["units"], *experts]}
    parts += [_candidates(document, kind, named) for kind in looked]
    if profiles := [row for row in document["layers"] if sum(row["counts"])]:
        parts += ["<h2>Depth</h2>", note(_PROFILES), _profiles(profiles)]
    if document["units"]:
        parts += ["<h2>Every labeled head</h2>", _units(document["units"], "head")]
    if experts:
        parts += ["<h2>Every labeled expert</h2>", _units(experts, "expert")]
    if document["facts"]:
        parts += ["<h2>The stream</h2>", note(_FACTS), *map(_fact, document["facts"])]
    return frame(document, "What is inside {}?", visible(str(facts["name"])), *parts)


_KEY = (
    "Layers upwards. A letter is a label; full: proved by an intervention, pale: seen, past the band of chance and the "
    "threshold. A head may have several labels, the proved ones first."
)
_EXPERTS = (
    "Every expert of the mixtures. A letter is a label, under a pointer what it is of (a domain, a kind of tokens); "
    "full: proved by taking the expert out, pale: seen."
)
_KINDS = (
    "Label: units whose score is past the band of the best unit by chance and past the threshold. On the control: how "
    "many would have it where the relation is absent, on documents that the band is not from."
)
_CANDIDATES = (
    "The units that half of the documents rank highest, scored on the other half. Effect: what the experiment's metric "
    "changes by when the unit is replaced, with its standard error; like units: the bound that units of like depth and "
    "size reach. Restores: of what all units with the label carry together, the share that this one brings back alone."
)


_PROFILES = (
    "The share of a layer's units that have the label, from the first layer, left, to the last. The line is the share, "
    "the band Wilson's interval at 95 %; all from 0 to the largest upper end of the kind."
)
_FACTS = "From the first layer, left, to the last. The number beside a curve is the last layer's."


def letters(kinds: Sequence[str]) -> dict[str, str]:
    """One or two letters for every kind, no two alike."""
    taken: dict[str, str] = {}
    for kind in kinds:
        words = kind.replace("-", " ").split()
        initials = "".join(word[0] for word in words[:2]).capitalize()
        options = [words[0][0].upper(), initials, *(words[0][:n].capitalize() for n in (2, 3, 4))]
        free = [option for option in options if option not in taken.values()]
        taken[kind] = free[0] if free else f"K{len(taken)}"
    return taken


def _looked_for(document: Mapping[str, Any], sort: str) -> list[str]:
    return [kind["kind"] for kind in document["kinds"] if kind["sort"] == sort and not kind["missing"]]


def _map(document: Mapping[str, Any], units: Sequence[Mapping[str, Any]], sort: str) -> str:
    """Layers upwards, heads or experts side by side, each with the letters of its labels."""
    short = letters(_looked_for(document, sort))
    by_place = {(unit["layer"], unit[sort]): unit for unit in units}
    n_layers = int(document["model"].get("layers", 0))
    width = 1 + max((unit[sort] for unit in units), default=0)
    if sort == "head":
        width = max(width, -(-int(document["model"].get("heads", 0)) // max(1, n_layers)))
    lines = []
    for layer in reversed(range(n_layers)):
        cells = [_place(by_place.get((layer, place)), short) for place in range(width)]
        lines.append(f"<tr><th scope='row'>{layer}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th scope='col'>{number}</th>" for number in range(width))
    return (
        f"<div class='sideways'><table class='map'><caption>layers by {sort}s</caption>"
        f"<thead><tr><th>layer</th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _place(unit: Mapping[str, Any] | None, short: Mapping[str, str]) -> str:
    if unit is None or not unit["labels"]:
        return cell("")
    labels = sorted(unit["labels"], key=lambda kind: kind not in unit["proved"])
    classes = dict(zip(unit["labels"], unit.get("classes", ()), strict=False))
    of = {kind: f" of {visible(classes[kind])}" if classes.get(kind) else "" for kind in labels}
    words = ", ".join(f"{kind}{of[kind]} ({'proved' if kind in unit['proved'] else 'seen'})" for kind in labels)
    shade = "s9" if unit["proved"] else "s3"
    shown = html.escape(" ".join(short[kind] for kind in labels if kind in short))
    title = html.escape(f"{unit['name']}: {words}")
    return f"<td class='{shade}' title='{title}'><a href='#{html.escape(unit['name'])}'>{shown}</a></td>"


def _legend(kinds: Sequence[str]) -> str:
    named = [f"<b>{letter}</b> {html.escape(kind)}" for kind, letter in letters(kinds).items()]
    return f"<p class='note'>{' · '.join(named)}</p>"


def _kinds(document: Mapping[str, Any]) -> str:
    counts = {row["kind"]: row["counts"] for row in document["layers"]}
    rows = []
    for kind in document["kinds"]:
        if kind["missing"]:
            continue
        cells = [
            cell(f"{kind['labelled']}", small=f"of {kind['units']} {kind['sort']}s"),
            cell(f"{kind['false_labels']}"),
            cell(number(kind["band"])),
            cell(number(kind["threshold"])),
            _depth(counts[kind["kind"]]),
            cell(kind["experiment"] if not kind["unproved"] else "–", title=kind["unproved"]),
        ]
        rows.append((f"{kind['kind']} {kind['entry']}", cells))
    return rows_table(["kind", "label", "on the control", "band", "threshold", "by layer", "proved by"], rows)


def _depth(counts: Sequence[int]) -> str:
    """Labels by layer as bars, from the first layer to the last."""
    most, step = max([1, *counts]), 4
    bars = "".join(
        f"<rect class='fill' x='{i * step}' y='{14 - 14 * n / most:.1f}' width='{step - 1}' "
        f"height='{14 * n / most:.1f}'/>"
        for i, n in enumerate(counts)
        if n
    )
    width = max(1, len(counts) * step)
    words = ", ".join(f"layer {i}: {n}" for i, n in enumerate(counts) if n) or "none"
    return (
        f"<td><svg class='bar-of' viewBox='0 0 {width} 14' width='{width}' height='14' role='img' "
        f"aria-label='{html.escape(words)}'><rect class='track' width='{width}' height='14'/>{bars}</svg></td>"
    )


def _profiles(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each kind: where in depth its units are."""
    lines = []
    for row in rows:
        profile = row["profile"]
        share, best = profile["share"], max(range(len(profile["share"])), key=lambda i: profile["share"][i])
        layer = f"layer {profile['layer'][best]:.0f}"
        lines.append((row["kind"], [_shares(profile), cell(f"{100 * share[best]:.1f} %", small=layer)]))
    return rows_table(["kind", "by depth", "most"], lines)


def _shares(profile: Mapping[str, Sequence[float]]) -> str:
    """A share by depth with its interval."""
    top = max(*profile["high"], 1e-12)

    def points(name: str) -> list[str]:
        ends = zip(profile["depth"], profile[name], strict=True)
        return [f"{200 * depth:.1f},{23 - 22 * value / top:.1f}" for depth, value in ends]

    band = " ".join([*points("high"), *reversed(points("low"))])
    words = html.escape(f"share of labels by depth, from 0 to {100 * top:.1f} %")
    return (
        f"<td title='{words}'><svg class='band-of' viewBox='0 0 200 24' width='200' height='24' role='img' "
        f"aria-label='{words}'><polygon class='track' points='{band}'/>"
        f"<polyline points='{' '.join(points('share'))}' fill='none' stroke='currentColor' stroke-width='1.5'/>"
        "</svg></td>"
    )


def _units(units: Sequence[Mapping[str, Any]], sort: str) -> str:
    """Heads or experts with all their labels, each at its address."""
    rows = []
    for unit in units:
        words = ", ".join(f"{kind} (proved)" if kind in unit["proved"] else kind for kind in unit["labels"])
        rows.append((unit["name"], [cell(words)]))
    return _with_addresses(rows_table([sort, "labels"], rows), [unit["name"] for unit in units])


def _with_addresses(table: str, names: Sequence[str]) -> str:
    """The table with an id at each named row."""
    for name in map(html.escape, names):
        table = table.replace(f"<th scope='row'>{name}</th>", f"<th scope='row' id='{name}'>{name}</th>", 1)
    return table


def _candidates(document: Mapping[str, Any], kind: Mapping[str, Any], named: Set[str]) -> str:
    own = [one for one in document["candidates"] if one["kind"] == kind["kind"]]
    first_of = {one["component"]: one for one in reversed(document["candidates"])}
    addressed = [n for one in own if first_of[n := one["component"]] is one and n not in named]
    rows = []
    of = any(one["draw"].get("class") for one in own)
    for one in own:
        draw = one["draw"]
        effect, bound, restores = one["effect"], draw.get("matched units"), draw.get("restores")
        error = draw.get("error of the effect")
        cells = [
            *(cell(visible(str(draw.get("class", "")))) for _ in range(of)),
            cell(number(one["score"])),
            cell(number(one["control"])),
            cell("" if effect is None else signed(effect), small="" if error is None else f"± {number(error)}"),
            cell("" if bound is None else signed(bound)),
            cell("" if restores is None else f"{100 * restores:.0f} %"),
            cell(one["grade"], small=draw.get("proved", ""), more="class='s6'" if one["grade"] == "proved" else ""),
        ]
        rows.append((one["component"], cells))
    titles = ["unit", *(["of"] if of else []), "score", "control", "effect", "like units", "restores", "verdict"]
    table = _with_addresses(rows_table(titles, rows), addressed)
    words = f"Score: {kind['looks_at']}. Control: {kind['control_is']}. {kind['citation']}."
    return f"<h3>{html.escape(kind['kind'])}</h3>{note(words)}{table}"


def _fact(fact: Mapping[str, Any]) -> str:
    title = f"<h3>{html.escape(fact['name'])} {html.escape(fact['entry'])}</h3>"
    if fact["missing"]:
        return title + note(f"Not measured: {fact['missing']}")
    rows = [(name, [_numbers(value)]) for name, value in fact["values"].items()]
    controls = [(f"control: {name}", [_numbers(value)]) for name, value in fact["control"].items()]
    faint = [False] * len(rows) + [True] * len(controls)
    words = f"{fact['what']}. Control: {fact['control_is']}. {fact['citation']}."
    return title + note(words[0].upper() + words[1:]) + rows_table(["", ""], rows + controls, faint=faint)


def _numbers(value: Any) -> str:
    """A number, or a line of numbers by layer between their least and largest."""
    if not isinstance(value, list):
        return cell("–" if value is None else number(value))
    there = [(i, x) for i, x in enumerate(value) if x is not None]
    if not there:
        return cell("–")
    low, high = min(x for _, x in there), max(x for _, x in there)
    step, room = 200 / max(1, len(value) - 1), max(high - low, 1e-12)
    points = " ".join(f"{i * step:.1f},{22 - 20 * (x - low) / room:.1f}" for i, x in there)
    words = html.escape(f"from {number(low)} to {number(high)}")
    return (
        f"<td title='{words}'><svg class='band-of' viewBox='0 0 200 24' width='200' height='24' role='img' "
        f"aria-label='{words}'><polyline points='{points}' fill='none' stroke='currentColor' stroke-width='1.5'/>"
        f"</svg> {html.escape(number(there[-1][1]))}</td>"
    )


PAGE = Page(ATLAS, _title, _body, styles=("page", "concept", "atlas"), script="atlas", adds=True)
