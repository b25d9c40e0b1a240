"""The curve of dose and response as a figure, continuations below it: steered in orange, random vectors in gray."""

from __future__ import annotations

import html
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from caseback.reports.concepts.steering import STEERING
from caseback.reports.document import Document, checked, drawn_from

__all__ = ["dose_curve"]

_STEERED, _RANDOM = "#d9640f", "#6b7280"
_PANELS = {"effect": "effect", "kl": "KL from no steering, nats", "perplexity": "perplexity of plain text"}


@checked
@drawn_from("a document of steering", "steering_document")
def dose_curve(document: Document) -> go.Figure:
    """Draw what ``steering_document`` gave.

    Parameters
    ----------
    document
        The document.

    Returns
    -------
    plotly.graph_objects.Figure
        For ``write_figure``.

    Raises
    ------
    CasebackError
        For a document of another kind, or one that does not fit together.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.steering import contrastive_addition
    >>> from caseback.reports.concepts.steering import steering_document
    >>> model = cb.load("meadow")
    >>> found = contrastive_addition(model, "The film was great", "The film was awful").at("resid_post.2")
    >>> document = steering_document(model, found, "The dog was", cb.logit(" happy"), "happy", strengths=[0.5])
    >>> [trace.type for trace in dose_curve(document).data]
    ['scatter', 'scatter', 'scatter', 'scatter', 'scatter', 'scatter', 'table']
    """
    STEERING.check(document)
    dose = document["dose"]
    panels = [name for name in _PANELS if name in dose]
    figure = make_subplots(
        rows=2,
        cols=len(panels),
        specs=[[{}] * len(panels), [{"type": "table", "colspan": len(panels)}, *[None] * (len(panels) - 1)]],
        subplot_titles=[_PANELS[name] for name in panels],
        horizontal_spacing=0.07,
        vertical_spacing=0.12,
        row_heights=[0.55, 0.45],
    )
    for column, name in enumerate(panels, 1):
        lines = [(f"control_{name}", "random vectors, mean", _RANDOM, "dash"), (name, "steered", _STEERED, "solid")]
        for key, words, color, dash in lines:
            if key in dose:
                trace = go.Scatter(
                    x=dose["dose"],
                    y=dose[key],
                    name=words,
                    legendgroup=words,
                    showlegend=column == 1,
                    mode="lines+markers",
                    line={"color": color, "dash": dash},
                )
                figure.add_trace(trace, row=1, col=column)
        for edge in (dose["doubles_below"], dose["doubles_above"]):
            if edge is not None:
                words = "doubles" if name == "perplexity" else ""
                at: Any = {"row": 1, "col": column}
                figure.add_vline(
                    edge, line={"color": "#9ca3af", "dash": "dot", "width": 1}, annotation_text=words, **at
                )
    figure.add_trace(_texts(document), row=2, col=1)
    figure.update_xaxes(title="dose")
    figure.update_yaxes(gridcolor="#e5e7eb", showgrid=True)
    negative, positive = document["direction"]["classes"]
    title = f"{positive} less {negative} at {', '.join(document['direction']['places'][:3])}: {document['metric']}"
    figure.update_layout(
        title={"text": html.escape(title), "x": 0.02, "font": {"size": 16}},
        template="simple_white",
        font={"family": "system-ui, sans-serif", "size": 13},
        height=760,
        width=1100,
        margin={"l": 60, "r": 30, "t": 100, "b": 60},
        legend={"orientation": "h", "y": 1.12, "x": 1, "xanchor": "right"},
    )
    return figure


def _texts(document: Any) -> go.Table:
    """Prompts with their continuations, a column for each strength."""
    rows = document["continuations"]
    heads = ["prompt", "unsteered", *(f"{strength:+g}" for strength in document["strengths"])]
    columns = [[row["prompt"] for row in rows], [row["unsteered"] for row in rows]]
    columns += [[row["steered"][i] for row in rows] for i in range(len(document["strengths"]))]
    # what a cell shows is HTML for plotly
    cells = [[html.escape(text) for text in column] for column in columns]
    return go.Table(
        header={"values": heads, "align": "left", "fill_color": "#f3f4f6"},
        cells={"values": cells, "align": "left", "fill_color": "#ffffff"},
    )
