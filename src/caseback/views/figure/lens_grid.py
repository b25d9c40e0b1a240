"""A lens over a prompt as a plotly figure: depth by token, the likeliest token in each cell, the rest on hover.

One figure holds all modes, chosen by buttons: the likeliest token's probability, the entropy, the divergence from the
model's prediction, and the rank of each followed token. Darker always means surer: a higher probability, or a lower
rank, entropy or divergence (scales in nats end at three times the median; hovering shows the value). The
row of the embedding has no shade: what it reads is the token that stands there, and no answer. Below the grid,
curves follow the tokens' ranks from layer to layer. Heads and neurons have one row each.
"""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from caseback.reports.document import checked
from caseback.reports.tables.lens_modes import Mode, chosen, modes_of
from caseback.reports.tables.lens_rows import Rows, by_unit, rows_of, rows_with_answers
from caseback.reports.tokens_text import visible
from caseback.views.figure.lines import line_of
from caseback.views.numbers_text import number, percent

__all__ = ["lens_grid"]

# teal as on the pages: orange and blue are for target and foil
_SURE = [[0.0, "#ffffff"], [0.25, "#d3eae7"], [0.5, "#93c9c3"], [0.75, "#45958f"], [1.0, "#1b5f5b"]]
_UNSURE = [[1.0 - at, color] for at, color in reversed(_SURE)]
_LONGEST = 9


@checked
def lens_grid(lens: xr.Dataset, *, title: str, mode: str = "top", batch: int = 0) -> go.Figure:
    """Draw a lens over one prompt.

    Parameters
    ----------
    lens
        What ``logit_lens``, ``read_lens``, ``read_attention_lens`` or ``patchscope`` gives, with a dimension ``pos``.
        Heads and neurons get one row each, as by ``by_unit``.
    title
        The figure's title.
    mode
        What is shown first: ``"top"``, ``"rank"``, ``"entropy"``, ``"kl"`` ...; buttons change it.
    batch
        Which prompt.

    Returns
    -------
    plotly.graph_objects.Figure
        For ``write_figure``.

    Raises
    ------
    CasebackError
        For a mode that the result does not have, and as for ``modes_of``.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary import logit_lens
    >>> lens = logit_lens(cb.load("meadow"), "the cat and the dog", targets=" cat")
    >>> len(lens_grid(lens, title="logit lens", mode="rank").data)
    2
    """
    lens = by_unit(lens)
    modes = modes_of(lens, batch)
    first = chosen(modes, mode)
    one = lens.isel(batch=batch)
    columns = [i for i in range(one.sizes["pos"]) if np.isfinite(one["entropy"].values[:, i]).any()]
    tokens = [visible(str(one["token"].values[i])) for i in columns]
    places = one["pos"].values[columns].tolist()
    rows = rows_of(lens)
    answering = np.array(rows_with_answers(lens))
    followed = "rank" in one and "vocab" in one["rank"].dims
    height = 26 * len(rows.labels) + 40
    figure = make_subplots(
        rows=1 + followed,
        cols=1,
        row_heights=[height, 240] if followed else None,
        vertical_spacing=150 / (height + 390) if followed else 0,
        subplot_titles=["", f"rank {rows.each}, at position {places[-1]} {tokens[-1]}"] if followed else None,
    )
    each = range(len(rows.labels))
    shown = [[_clipped(visible(str(one["top_text"].values[r, c, 0]))) for c in columns] for r in each]
    hover_texts = [[_hover(one, modes, rows, r, c) for c in columns] for r in each]
    figure.add_trace(
        go.Heatmap(
            x=list(range(len(columns))),
            y=list(each),
            text=shown,
            texttemplate="%{text}",
            hovertext=hover_texts,
            hovertemplate="%{hovertext}<extra></extra>",
            xgap=1,
            ygap=1,
            **_look(first, columns, height, answering),
        ),
        row=1,
        col=1,
    )
    side = {"showline": False, "ticks": "", "tickmode": "array"}
    labels = [f"{i} {html.escape(token)}" for i, token in zip(places, tokens, strict=True)]
    figure.update_xaxes(tickvals=list(range(len(columns))), ticktext=labels, tickangle=-60, row=1, col=1, **side)
    figure.update_yaxes(
        tickvals=list(each),
        ticktext=rows.labels,
        title=rows.axis,
        autorange=True,
        row=1,
        col=1,
        **side,
    )
    if followed:
        _trajectories(figure, one, columns[-1], rows)
    looks = [(m, _restyled(_look(m, columns, height, answering))) for m in modes]
    figure.update_layout(
        title={"text": html.escape(title), "x": 0.02, "y": 0.985, "yanchor": "top", "font": {"size": 16}},
        template="simple_white",
        plot_bgcolor="#f3f4f6",
        font={"family": "system-ui, sans-serif", "size": 13},
        height=height + (390 if followed else 0) + 210,
        width=min(1800, max(720, 74 * len(columns) + 260)),
        margin={"l": 90, "r": 60, "t": 130, "b": 110},
        legend={"orientation": "h", "yanchor": "top", "y": -0.12, "x": 0},
        updatemenus=[
            {
                "type": "buttons",
                "direction": "right",
                "x": 0,
                "xanchor": "left",
                "y": 1 + 20 / (height + (390 if followed else 0)),
                "yanchor": "bottom",
                "active": modes.index(first),
                "buttons": [{"label": m.name, "method": "restyle", "args": [look, [0]]} for m, look in looks],
            }
        ],
    )
    return figure


def _look(mode: Mode, columns: list[int], height: int, answering: np.ndarray) -> dict[str, Any]:
    """A mode's colors, as arguments of a heatmap."""
    values = mode.drawn[:, columns]
    finite = values[answering][np.isfinite(values[answering])]
    most = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    title = mode.title
    if mode.name != "top" and not mode.ranks and (positive := finite[finite > 0]).size:
        # the first layers may be so far off that everything else would look the same
        cut = 3 * float(np.median(positive))
        title, most = (f"{title}, cut at {number(cut)}", cut) if cut < most else (title, most)
    bar: dict[str, Any] = {"title": {"text": html.escape(title), "side": "right"}, "thickness": 14}
    bar |= {"len": max(height, 190), "lenmode": "pixels", "y": 1, "yanchor": "top"}
    marks: list[float] | None = None
    if mode.ranks:
        marks = [float(i) for i in range(int(most) + 1)]
    bar |= {"tickvals": marks, "ticktext": None if marks is None else [f"{10 ** int(m):,}" for m in marks]}
    # no shade, but still text: a cell without a number has neither
    blank = 0.0 if mode.name == "top" else most
    values = np.where(answering[:, None] | ~np.isfinite(values), values, blank)
    return {
        "z": [[float(v) if np.isfinite(v) else None for v in row] for row in values],
        "zmin": 0,
        "zmax": 1.0 if mode.name == "top" else most,
        "colorscale": _SURE if mode.name == "top" else _UNSURE,
        "colorbar": bar,
    }


def _restyled(look: dict[str, Any]) -> dict[str, Any]:
    """The same for plotly's restyle, which takes a list with one entry per trace."""
    return {key: [value] for key, value in look.items()}


def _trajectories(figure: go.Figure, one: xr.Dataset, column: int, rows: Rows) -> None:
    texts = [visible(str(text)) for text in np.atleast_1d(one["vocab_text"].values)]
    for i, text in enumerate(texts):
        ranks = one["rank"].isel(vocab=i, pos=column).values
        figure.add_trace(
            go.Scatter(
                x=list(range(len(rows.labels))),
                y=ranks.tolist(),
                name=html.escape(text),
                mode="lines+markers",
                line=line_of(i),
                hovertext=[
                    f"{html.escape(text)} {rows.before}{row}: rank {r}"
                    for row, r in zip(rows.labels, ranks, strict=True)
                ],
                hovertemplate="%{hovertext}<extra></extra>",
                showlegend=True,
            ),
            row=2,
            col=1,
        )
    at = list(range(len(rows.labels)))
    figure.update_xaxes(title=rows.axis, tickmode="array", tickvals=at, ticktext=rows.labels, row=2, col=1)
    # rank 1 at the top
    most = np.log10(max(2, int(one["rank"].isel(pos=column).max())))
    marks = [10**i for i in range(int(np.ceil(most)) + 1)]
    figure.update_yaxes(
        title="rank", type="log", range=[most * 1.05, -0.1 * most], tickvals=marks, row=2, col=1, gridcolor="#e5e7eb"
    )


def _hover(one: xr.Dataset, modes: list[Mode], rows: Rows, row: int, column: int) -> str:
    if not np.isfinite(one["entropy"].values[row, column]):
        return "nothing is read here"
    place = f"{rows.before}{html.escape(rows.labels[row])}"
    lines = [f"{place}, position {one['pos'].values[column]} {html.escape(visible(str(one['token'].values[column])))}"]
    for text, p in zip(one["top_text"].values[row, column], one["top_prob"].values[row, column], strict=True):
        lines.append(f"<b>{html.escape(visible(str(text)))}</b> {percent(float(p))}")
    for mode in modes[1:]:
        value = float(mode.values[row, column])
        if np.isfinite(value):
            lines.append(f"{html.escape(mode.title)}: {int(value) if mode.ranks else number(value)}")
    if "said" in one:
        lines.append(f"said: {html.escape(visible(str(one['said'].values[row, column])))}")
    return "<br>".join(lines)


def _clipped(text: str) -> str:
    return html.escape(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…")
