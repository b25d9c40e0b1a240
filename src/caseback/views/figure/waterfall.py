"""A waterfall as a plotly figure. Orange raises, blue lowers, gray is a total."""

from __future__ import annotations

import html

import numpy as np
import plotly.graph_objects as go

from caseback.reports.document import checked
from caseback.reports.waterfall import Waterfall
from caseback.views.numbers_text import number, signed

__all__ = ["waterfall_figure"]

RAISES, LOWERS, WHOLE = "#d9640f", "#2171b5", "#6b7280"
_ROW, _MARGINS = 26, 170


@checked
def waterfall_figure(drawn: Waterfall, *, title: str, value: str) -> go.Figure:
    """A waterfall as a plotly figure, for ``heatmap.write_figure``.

    Parameters
    ----------
    drawn
        The waterfall.
    title
        The figure's title.
    value
        What the shares are shares of, for the axis and the hover text.

    Examples
    --------
    >>> import xarray as xr
    >>> from caseback.reports.waterfall import waterfall
    >>> shares = xr.DataArray([[3.0], [-1.0]], dims=["component", "batch"])
    >>> figure = waterfall_figure(waterfall(shares), title="", value="logit")
    >>> figure.data[0].measure, figure.data[0].x
    (('relative', 'relative', 'total'), (3.0, -1.0, 2.0))
    """
    # numbered, since plotly merges equal labels
    at = list(range(len(drawn.bars) + 1))
    values = [*(bar.value for bar in drawn.bars), drawn.total]
    names = [html.escape(name) for name in (*(bar.name for bar in drawn.bars), drawn.whole)]
    number_texts = [*(signed(bar.value) for bar in drawn.bars), number(drawn.total)]
    many = drawn.n > 1
    figure = go.Figure(
        go.Waterfall(
            orientation="h",
            measure=["relative"] * len(drawn.bars) + ["total"],
            x=values,
            y=at,
            text=number_texts,
            # error bars would run through the numbers, which then stand at the side
            textposition="none" if many else "outside",
            cliponaxis=False,
            hovertext=[_hover(drawn, i, names, value) for i in at],
            hovertemplate="%{hovertext}<extra></extra>",
            increasing={"marker": {"color": RAISES}},
            decreasing={"marker": {"color": LOWERS}},
            totals={"marker": {"color": WHOLE}},
            connector={"line": {"color": "#9ca3af", "width": 1}},
        )
    )
    low, high = _with_errors(figure, drawn, number_texts) if many else drawn.extent
    room = 0.12 * (high - low)
    over = f", mean of {drawn.n} prompts ± sd" if many else ""
    figure.update_layout(
        title={"text": html.escape(title), "x": 0.02, "font": {"size": 16}},
        template="simple_white",
        font={"family": "system-ui, sans-serif", "size": 13},
        showlegend=False,
        height=_ROW * len(at) + _MARGINS,
        width=900,
        margin={"l": 150, "r": 130 if many else 50, "t": 70, "b": 60},
    )
    figure.update_xaxes(
        title={"text": html.escape(value + over)},
        range=[low - room, high + room],
        zeroline=True,
        zerolinecolor="#9ca3af",
        showgrid=True,
        gridcolor="#e5e7eb",
    )
    figure.update_yaxes(tickmode="array", tickvals=at, ticktext=names, autorange="reversed", ticks="", showline=False)
    return figure


def _with_errors(figure: go.Figure, drawn: Waterfall, number_texts: list[str]) -> tuple[float, float]:
    """Add each bar's spread over prompts, as an error bar and as a number at the side; returns the axis's range."""
    ends = np.array([*(bar.end for bar in drawn.bars), drawn.total])
    spreads = np.array([*(bar.spread or 0.0 for bar in drawn.bars), drawn.spread or 0.0])
    figure.add_trace(
        go.Scatter(
            x=ends,
            y=list(range(len(ends))),
            mode="markers",
            marker={"size": 1, "color": "#111827"},
            error_x={"type": "data", "array": spreads, "color": "#111827", "thickness": 1, "width": 3},
            hoverinfo="skip",
        )
    )
    for i, (text, spread) in enumerate(zip(number_texts, spreads.tolist(), strict=True)):
        beside = {"text": f"{text} ± {number(spread)}", "showarrow": False, "xanchor": "left", "xshift": 8}
        figure.add_annotation(x=1.0, xref="x domain", y=i, yref="y", **beside)
    low, high = drawn.extent
    return min(low, float((ends - spreads).min())), max(high, float((ends + spreads).max()))


def _hover(drawn: Waterfall, index: int, names: list[str], value: str) -> str:
    if index == len(drawn.bars):
        spread = "" if drawn.spread is None else f" ± {drawn.spread:.4g} sd over {drawn.n} prompts"
        return f"<b>{names[index]}</b><br>{html.escape(value)} {drawn.total:.4g}{spread}"
    bar = drawn.bars[index]
    spread = "" if bar.spread is None else f" ± {bar.spread:.4g} sd over {drawn.n} prompts"
    return f"<b>{names[index]}</b><br>{bar.value:+.4g}{spread}<br>running total {bar.end:.4g}"
