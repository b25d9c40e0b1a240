"""Maps as plotly figures: layer by position, layer by head, side by side, in one file that opens offline.

Orange is positive, for the target, blue negative, for the foil, and white 0: a pair that color-blind readers can tell
apart. All panels of a figure share one scale that is centered on 0. Layers run upwards.
"""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from caseback.errors import CasebackError
from caseback.jobs.whole_file import expect_writable, whole_file
from caseback.reports.document import checked
from caseback.reports.maps import Map, of_layers

__all__ = ["SCALE", "heatmap", "write_figure"]

SCALE = [
    [0.0, "#08306b"],
    [0.2, "#2171b5"],
    [0.4, "#9ecae1"],
    [0.5, "#ffffff"],
    [0.6, "#fdbe85"],
    [0.8, "#d9640f"],
    [1.0, "#7f2704"],
]
_CELL, _PANEL_GAP = 26, 54
_SMALLEST, _LARGEST = 240, 1500


@checked
def heatmap(maps: Map | Mapping[str, Map], *, title: str, value: str) -> go.Figure:
    """Draw one map, or several above each other with one scale.

    Parameters
    ----------
    maps
        A map, or maps by their titles.
    title
        The figure's title.
    value
        What the numbers are, for the scale and the hover text.

    Returns
    -------
    plotly.graph_objects.Figure
        A figure whose labels show whitespace as ``visible`` does.

    Raises
    ------
    CasebackError
        If there is nothing to draw.

    Examples
    --------
    >>> from caseback.reports.maps import Axis
    >>> drawn = Map(Axis("layer", ["0"]), Axis("head", ["0", "1"]), np.array([[1.0, -2.0]]), None, 1)
    >>> figure = heatmap(drawn, title="", value="effect")
    >>> figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax
    (-2.0, 2.0)
    """
    panels = {"": maps} if isinstance(maps, Map) else dict(maps)
    if not panels:
        raise CasebackError("nothing to draw: no map given")
    heights = [_CELL * len(m.rows.labels) for m in panels.values()]
    # panels with equal columns share their labels, others need room for their own
    alike = len({tuple(m.columns.labels) for m in panels.values()}) == 1
    gap = _PANEL_GAP + (0 if alike else 130)
    inner = min(_LARGEST, max(_SMALLEST, sum(heights)) + gap * (len(panels) - 1))
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        subplot_titles=[html.escape(name) for name in panels] if len(panels) > 1 else None,
        row_heights=heights,
        vertical_spacing=min(gap / inner, 0.9 / max(len(panels) - 1, 1)) if len(panels) > 1 else 0,
    )
    for i, drawn in enumerate(panels.values(), 1):
        figure.add_trace(_trace(drawn, value), row=i, col=1)
        figure.update_xaxes(_axis(drawn.columns.name, drawn.columns.labels), row=i, col=1)
        if alike and i < len(panels):
            figure.update_xaxes(showticklabels=False, title_text="", row=i, col=1)
        figure.update_yaxes(_axis(drawn.rows.name, drawn.rows.labels), row=i, col=1)
        # the first layer at the bottom, as the stream flows; lists of anything else read from the top
        figure.update_yaxes(autorange=True if of_layers(drawn.rows) else "reversed", row=i, col=1)
    most = max(m.largest for m in panels.values())
    widest = max(len(m.columns.labels) for m in panels.values())
    figure.update_layout(
        title={"text": html.escape(title), "x": 0.02, "font": {"size": 16}},
        coloraxis={
            "colorscale": SCALE,
            "cmin": -most,
            "cmax": most,
            "colorbar": {"title": {"text": html.escape(value)}, "thickness": 14},
        },
        template="simple_white",
        plot_bgcolor="#e6e6e6",  # between cells and where a cell is missing; white would mean 0
        font={"family": "system-ui, sans-serif", "size": 13},
        height=inner + 236,
        width=min(_LARGEST, max(560, 40 * widest + 260)),
        margin={"l": 90, "r": 40, "t": 96, "b": 120},
    )
    return figure


@checked
def write_figure(figure: go.Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as one page that loads nothing, whole or not at all.

    Raises
    ------
    CasebackError
        If the folder is missing or the file cannot be written.

    Examples
    --------
    ::

        write_figure(heatmap(as_map(patched.recovery), title="...", value="recovery"), "map.html")
    """
    path = Path(path)
    expect_writable(path)
    page = figure.to_html(include_plotlyjs=True, full_html=True, config={"displaylogo": False})
    with whole_file(path) as draft:
        draft.write_text(page, encoding="utf-8", newline="\n")
    return path


def _trace(drawn: Map, value: str) -> go.Heatmap:
    hover_texts = [
        [_hover(drawn, value, r, c) for c in range(len(drawn.columns.labels))] for r in range(len(drawn.rows.labels))
    ]
    return go.Heatmap(
        z=[[float(v) if np.isfinite(v) else None for v in row] for row in drawn.values],
        x=list(range(len(drawn.columns.labels))),
        y=list(range(len(drawn.rows.labels))),
        text=hover_texts,
        hovertemplate="%{text}<extra></extra>",
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
    )


def _hover(drawn: Map, value: str, row: int, column: int) -> str:
    number = drawn.values[row, column]
    if not np.isfinite(number):
        return "no such part"
    lines = [
        f"{html.escape(axis.name)} {html.escape(axis.labels[i])}"
        for axis, i in ((drawn.rows, row), (drawn.columns, column))
        if axis.name
    ]
    spread = "" if drawn.spread is None else f" ± {drawn.spread[row, column]:.4g} sd over {drawn.n} prompts"
    return "<br>".join([*lines, f"<b>{html.escape(value)} {number:+.4g}</b>{spread}"])


def _axis(name: str, labels: list[str]) -> dict:
    # numbered, since plotly merges equal labels, and prompts repeat their tokens
    step = max(1, len(labels) // 60)
    at = list(range(0, len(labels), step))
    tokens = name in ("pos", "query", "key")
    return {
        "title": {"text": html.escape("position" if name == "pos" else name)},
        "tickmode": "array",
        "tickvals": at,
        "ticktext": [html.escape(labels[i]) for i in at],
        "tickangle": -60 if tokens else 0,
        "showline": False,
        "ticks": "",
        "constrain": "domain",
    }
