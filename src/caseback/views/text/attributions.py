"""Attributions side by side in the terminal: colored tokens, numbers, agreement, faithfulness, generation.

A token's background is its score as a share of the method's largest: orange for the metric, blue against it, none near
0; color-blind readers can tell the two apart. Whatever color says is also in the tables below, so the view reads the
same in a pipe, under ``NO_COLOR`` and without Unicode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text

from caseback.reports.attributions import ATTRIBUTIONS
from caseback.reports.document import checked
from caseback.reports.maps import Axis, Map
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import percent, signed
from caseback.views.text.bars import ASCII, UNICODE, Glyphs, share_bar, signed_bar
from caseback.views.text.colors import AGAINST, SIGNED, SUPPORTS
from caseback.views.text.heatmap import map_text

__all__ = ["attribution_parts", "print_attributions", "shade"]

_WIDEST = 110
_MOST_TOKENS, _LARGEST = 40, 24
_WEAK = ((238, 240, 243), (250, 240, 229))
_STRONG = ((42, 98, 160), (190, 96, 16))
_FAINT = 0.05


@checked
def print_attributions(document: Mapping[str, Any], console: Console | None = None) -> None:
    """Print attributions: what is explained, the tokens in color, numbers, agreement, faithfulness, generation.

    Parameters
    ----------
    document
        What ``caseback.reports.attributions.compare_attributions`` returns, or the same read from JSON.
    console
        Where to print; by default a new ``rich`` console on standard output, which obeys ``NO_COLOR``.

    Raises
    ------
    CasebackError
        If the document is not one of attributions.

    Examples
    --------
    ::

        print_attributions(compare_attributions(model, "Mary and John went to", "all"))
    """
    console = console or Console()
    glyphs = ASCII if console.options.ascii_only else UNICODE
    for part in attribution_parts(document, width=console.width, glyphs=glyphs):
        # the text comes from the prompt: nothing in it may be highlighted or interpreted
        console.print(part, highlight=False, markup=False, emoji=False)


@checked
def attribution_parts(
    document: Mapping[str, Any], *, width: int = 80, glyphs: Glyphs = UNICODE
) -> list[RenderableType]:
    """The parts of ``print_attributions`` as rich renderables, in order."""
    width = min(width, _WIDEST)
    views = (_question, _flows, _numbers, _agreement, _faithfulness, _generation, _refused)
    with ATTRIBUTIONS.drawing(document):
        return [part for view in views for part in view(document, width, glyphs)]


@checked
def shade(share: float) -> str:
    """The style of a token whose score is this share of the largest, from -1 to 1.

    Examples
    --------
    >>> shade(0.01), shade(1.0), shade(-1.0)
    ('', '#ffffff on #be6010', '#ffffff on #2a62a0')
    """
    if abs(share) < _FAINT:
        return ""
    size = min(1.0, abs(share))
    pairs = zip(_WEAK[share > 0], _STRONG[share > 0], strict=True)
    red, green, blue = (round(a + (b - a) * size**0.8) for a, b in pairs)
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
    return f"{'#ffffff' if dark else '#14181c'} on #{red:02x}{green:02x}{blue:02x}"


def _question(document: Mapping[str, Any], width: int, glyphs: Glyphs) -> Iterator[RenderableType]:
    target, foil, metric = document["target"], document["foil"], document["metric"]
    title = Text("Why ", style="bold")
    title.append(_clipped(visible(target["text"]), 24, glyphs), style=f"bold {SUPPORTS}")
    if foil is not None:
        title.append(" and not ")
        title.append(_clipped(visible(foil["text"]), 24, glyphs), style=f"bold {AGAINST}")
    title.append("?")
    yield title
    model = document["model"]
    shape = f"{model['n_layers']} layers × {model['n_heads']} heads · {model['dtype']}"
    yield Text(glyphs.text(f"{visible(model['name'])} · {shape}"), style="dim")
    says = {"logit_diff": "Logit difference", "logit": "Logit", "prob": "Probability", "log_prob": "Log probability"}
    yield Text(glyphs.text(f"{says[metric['name']]} {signed(metric['value'])}"), style="bold")
    best = "  ".join(f"{visible(p['text'])} {percent(p['prob'])}" for p in document["predictions"][:5])
    yield Text(glyphs.text(f"likeliest next: {best}"), style="dim", no_wrap=True, overflow="ellipsis")


def _flows(document: Mapping[str, Any], width: int, glyphs: Glyphs) -> Iterator[RenderableType]:
    for method in document["methods"]:
        most = _most(method["scores"])
        line = Text(glyphs.text(f"\n{method['label']}"), style="bold")
        line.append(glyphs.text(f"  {_scale(method)}"), style="dim not bold")
        yield line
        flow = Text()
        for token, score in zip(document["tokens"], method["scores"], strict=True):
            style = Style.parse(shade(score / most))
            text = glyphs.text(visible(token["text"]))
            # a leading space shows as its mark, dimmed and without a background of its own
            bare = text.lstrip("␣") if glyphs is UNICODE else text
            flow.append(text[: len(text) - len(bare)], style=style + Style(dim=True))
            flow.append(bare, style=style)
            if "\n" in token["text"]:
                flow.append("\n")
        yield Padding(flow, (0, 0, 0, 2))


def _scale(method: Mapping[str, Any]) -> str:
    parts = [f"sums to {signed(sum(method['scores']))}, largest {signed(max(method['scores'], key=abs))}"]
    details = method["said"]
    if "steps" in details:
        parts.append(f"{details['steps']} steps")
    if "completeness_gap" in details:
        parts.append(f"completeness gap {signed(details['completeness_gap'])}")
    return ", ".join(parts)


def _numbers(document: Mapping[str, Any], width: int, glyphs: Glyphs) -> Iterator[RenderableType]:
    tokens, methods = document["tokens"], document["methods"]
    shares = np.array([np.array(m["scores"]) / _most(m["scores"]) for m in methods])
    shown = list(range(len(tokens)))
    aside = ""
    if len(tokens) > _MOST_TOKENS:
        shown = sorted(np.argsort(-np.abs(shares).max(0), kind="stable")[:_LARGEST].tolist())
        aside = f"the {len(shown)} largest of {len(tokens)}"
    yield _heading("Scores", aside, glyphs)
    # one bar and one number per method while they fit, else a map
    if len(methods) > max(1, (width - 26) // 26):
        names = [f"{i + 1}" for i in range(len(methods))]
        rows = Axis(document["features"], [f"{i} {visible(tokens[i]['text'])}" for i in shown])
        scores = np.array([method["scores"] for method in methods], dtype=float)[:, shown].T
        drawn = Map(rows, Axis("attribution", names), scores, None, 1)
        yield from map_text(drawn, width=width, glyphs=glyphs, own_scales=True)
        for name, method in zip(names, methods, strict=True):
            yield Text(glyphs.text(f"{name:>3} {method['label']}"), style="dim")
        return
    half = max(3, min(10, (width - 28 - 13 * len(methods)) // (2 * len(methods))))
    table = _table(("", "right"), (document["features"], "left"))
    for method in methods:
        table.add_column(Text(glyphs.text(method["label"])), no_wrap=True, overflow="ellipsis")
        table.add_column("", justify="right", no_wrap=True)
    for i in shown:
        cells: list[RenderableType] = [str(i), Text(_clipped(visible(tokens[i]["text"]), 18, glyphs))]
        for m, method in enumerate(methods):
            cells.append(signed_bar(shares[m, i], half, glyphs, SIGNED))
            cells.append(Text(glyphs.text(signed(method["scores"][i]))))
        table.add_row(*cells)
    yield table


def _agreement(document: Mapping[str, Any], width: int, glyphs: Glyphs) -> Iterator[RenderableType]:
    compared, methods = document["comparison"], document["methods"]
    n = len(methods)
    if n < 2:
        return
    if 36 + 7 * n > width:
        # too many for a table of both numbers
        yield _heading("Agreement", "Spearman's rank correlation of sizes", glyphs)
        rows = Axis("", [f"{i + 1:>2} {method['label']}" for i, method in enumerate(methods)])
        columns = Axis("attribution", [str(i + 1) for i in range(n)])
        values = np.array([[np.nan if x is None else x for x in row] for row in compared["spearman"]], dtype=float)
        yield from map_text(Map(rows, columns, values, None, 1), width=width, glyphs=glyphs)
        return
    aside = f"rank correlation; below it, overlap of the top {compared['k']}, {percent(compared['k_chance'])} by chance"
    yield _heading("Agreement", aside, glyphs)
    table = _table(("", "right"), ("", "left"))
    for i in range(n):
        table.add_column(str(i + 1), justify="right", no_wrap=True)
    for i, method in enumerate(methods):
        cells: list[RenderableType] = [str(i + 1), Text(_clipped(method["label"], 26, glyphs))]
        for j in range(n):
            rank, top = compared["spearman"][i][j], compared["top_k"][i][j]
            if i == j:
                cells.append(Text(glyphs.text("·"), style="dim"))
            elif j > i:
                cells.append(Text(glyphs.text("none" if rank is None else signed(rank))))
            else:
                cells.append(Text("" if top is None else percent(top), style="dim"))
        table.add_row(*cells)
    yield table


def _faithfulness(document: Mapping[str, Any], width: int, glyphs: Glyphs) -> Iterator[RenderableType]:
    compared, methods = document["comparison"], document["methods"]
    aside = f"AOPC; a token gives way to the {compared['baseline']} baseline"
    yield _heading("Does the model bear it out?", aside, glyphs)
    chance = compared["chance"]
    ends = [*compared["comprehensiveness"], *compared["sufficiency"]]
    ends += [chance[name]["mean"] for name in chance] if chance else []
    most = _most(ends)
    half = max(3, min(9, (width - 58) // 4))
    table = _table(
        ("", "left"), ("lost without the top", "left"), ("", "right"), ("lost with it alone", "left"), ("", "right")
    )
    rows = [
        (m["label"], compared["comprehensiveness"][i], compared["sufficiency"][i], "") for i, m in enumerate(methods)
    ]
    if chance:
        rows.append(("random orders", chance["comprehensiveness"]["mean"], chance["sufficiency"]["mean"], "dim"))
    for label, without, alone, style in rows:
        table.add_row(
            Text(_clipped(label, 26, glyphs), style=style),
            signed_bar(without / most, half, glyphs, SIGNED),
            Text(glyphs.text(signed(without)), style=style),
            signed_bar(alone / most, half, glyphs, SIGNED),
            Text(glyphs.text(signed(alone)), style=style),
        )
    yield table
    note = "high on the left and low on the right is faithful; prompts with holes are unlike those of training"
    yield Text(glyphs.text(f" {note}"), style="dim")


def _generation(document: Mapping[str, Any], width: int, glyphs: Glyphs) -> Iterator[RenderableType]:
    generation = document["generation"]
    if generation is None:
        return
    targets = generation["targets"]
    yield _heading("The continuation, token by token", _about(generation), glyphs)
    table = _table(("", "right"), ("token", "left"), ("", "left"), ("p", "right"), ("instead of", "left"))
    for t, target in enumerate(targets):
        foil = "" if target["foil"] is None else _clipped(visible(target["foil"]["text"]), 16, glyphs)
        bar = share_bar(target["probability"], 12, glyphs)
        name = Text(_clipped(visible(target["text"]), 18, glyphs))
        table.add_row(str(t + 1), name, bar, percent(target["probability"]), Text(foil, style="dim"))
    yield table
    columns = Axis("step", [str(t + 1) for t in range(len(targets))])
    for method in generation["methods"]:
        values = np.array([[np.nan if x is None else x for x in row] for row in method["scores"]], dtype=float)
        largest = np.nanmax(np.abs(values), axis=1, keepdims=True, initial=0.0)
        shares = values / np.where(largest > 0, largest, 1)
        counts = np.nanmax(np.abs(shares), axis=0, initial=0.0) >= _FAINT
        shown = [i for i, one in enumerate(counts) if one or len(counts) <= _MOST_TOKENS]
        rows = Axis("from", [f"{i} {visible(generation['sources'][i]['text'])}" for i in shown])
        yield Text(glyphs.text(f"\n{method['label']}"), style="bold")
        # each step has its own colors, or a step with large scores would hide the others
        yield from map_text(
            Map(rows, columns, values[:, shown].T, None, 1), width=width, glyphs=glyphs, own_scales=True
        )
        if len(shown) < len(counts):
            left_out = f"{len(counts) - len(shown)} tokens below a twentieth of every step's largest left out"
            yield Text(glyphs.text(left_out), style="dim")


def _about(generation: Mapping[str, Any]) -> str:
    return {
        "logit_diff": "what favors each token over its foil",
        "logit": "what raises each token's logit",
        "prob": "what raises each token's probability",
        "log_prob": "what raises each token's log probability",
    }[generation["metric"]]


def _refused(document: Mapping[str, Any], width: int, glyphs: Glyphs) -> Iterator[RenderableType]:
    if document["refused"]:
        yield _heading("Left out", "", glyphs)
    for one in document["refused"]:
        yield Text(glyphs.text(f" {one['name']}: {one['why']}"), style="dim")


def _heading(title: str, aside: str, glyphs: Glyphs) -> Text:
    heading = Text(glyphs.text(f"\n{title}"), style="bold")
    return heading.append(glyphs.text(f"  {aside}"), style="dim not bold") if aside else heading


def _table(*columns: tuple[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=True, header_style="dim", show_edge=False)
    for title, justify in columns:
        table.add_column(Text(title), justify=justify, no_wrap=True, overflow="ellipsis")
    return table


def _clipped(text: str, cells: int, glyphs: Glyphs) -> str:
    text = glyphs.text(text)
    if cell_len(text) <= cells:
        return text
    return set_cell_size(text, cells - len(glyphs.ellipsis)).rstrip() + glyphs.ellipsis


def _most(values: Sequence[float]) -> float:
    return max((abs(value) for value in values), default=0.0) or 1.0
