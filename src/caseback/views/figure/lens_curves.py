"""How well lenses read, depth by depth, as curves: divergence from the model and bias, one line per lens."""

from __future__ import annotations

import html
from collections.abc import Mapping

import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from caseback.errors import CasebackError
from caseback.reports.document import checked

__all__ = ["lens_curves"]

_NAMES = {"kl": "KL(model ‖ lens), nats", "bias": "bias, nats", "agreement": "agreement"}
_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@checked
def lens_curves(measured: Mapping[str, xr.Dataset], *, title: str) -> go.Figure:
    """Draw what ``lens_quality`` measured for one lens or several.

    Parameters
    ----------
    measured
        Its results by the lenses' names; on the same corpus, or the lines cannot be compared.
    title
        The figure's title.

    Returns
    -------
    plotly.graph_objects.Figure
        For ``write_figure``.

    Raises
    ------
    CasebackError
        If there is nothing to draw, or the corpora differ in size.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary import lens_quality
    >>> quality = lens_quality(cb.load("meadow"), ["Mary went to the store."])
    >>> len(lens_curves({"logit lens": quality}, title="").data)
    3
    """
    if not measured:
        raise CasebackError("nothing to draw: no lens was measured")
    counts = {name: quality["kl"].attrs["tokens"] for name, quality in measured.items()}
    if len(set(counts.values())) > 1:
        raise CasebackError(f"these lenses were measured on different corpora, of {counts} tokens: use the same one")
    figure = make_subplots(rows=1, cols=len(_NAMES), subplot_titles=list(_NAMES.values()), horizontal_spacing=0.07)
    for i, (name, quality) in enumerate(measured.items()):
        for column, statistic in enumerate(_NAMES, 1):
            figure.add_trace(
                go.Scatter(
                    x=[str(layer) for layer in quality["layer"].values.tolist()],
                    y=quality[statistic].values.tolist(),
                    name=html.escape(name),
                    legendgroup=name,
                    showlegend=column == 1,
                    mode="lines+markers",
                    line={"color": _LINES[i % len(_LINES)]},
                ),
                row=1,
                col=column,
            )
    figure.update_xaxes(title="after layer", type="category")
    figure.update_yaxes(rangemode="tozero", gridcolor="#e5e7eb", showgrid=True)
    figure.update_layout(
        title={"text": html.escape(title), "x": 0.02, "font": {"size": 16}},
        template="simple_white",
        font={"family": "system-ui, sans-serif", "size": 13},
        height=420,
        width=1100,
        margin={"l": 60, "r": 30, "t": 100, "b": 100},
        legend={"orientation": "h", "y": -0.2, "yanchor": "top"},
    )
    return figure
