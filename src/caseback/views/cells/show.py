"""One door to the picture of anything: objects of the project, results, documents, arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError
from caseback.reports.concepts.universality import universality_document
from caseback.reports.displayed import drawer_of
from caseback.reports.document import checked
from caseback.reports.summaries.summary import Summary
from caseback.reports.waterfall import waterfall
from caseback.views.cells.cell import Cell
from caseback.views.cells.document import DocumentCell
from caseback.views.figure.figure import Figure, of_prompts
from caseback.views.figure.heatmap import heatmap
from caseback.views.figure.lens_grid import lens_grid
from caseback.views.figure.tokens import tokens
from caseback.views.figure.waterfall import waterfall_figure
from caseback.views.page.kinds import PAGES

__all__ = ["show"]

_MOST_SIDE = 4096
_MOST_CELLS = 2**17


@checked
def show(x: Any, *, title: str = "") -> Figure | Cell | DocumentCell:
    """Show anything: in a notebook it displays, elsewhere it can be saved.

    Parameters
    ----------
    x
        An object of the project, a labeled result, a document of ``caseback.reports``, or an array of one or two
        dimensions. Anything else is shown in words.
    title
        Of a figure; by default none.

    Returns
    -------
    Figure, Cell or DocumentCell
        Each with ``.html``, ``.save(path)`` and ``.data``: a result is drawn, an object is said in words, a document
        stands in a frame of its own.

    Raises
    ------
    CasebackError
        For a result or a document that cannot be drawn truthfully.

    Examples
    --------
    >>> import caseback as cb
    >>> show(cb.load("meadow")).summary.title
    'Model meadow'
    >>> show(np.eye(3))
    Figure(240 × 146; .save('figure.html'), .svg, .data)
    """
    if isinstance(x, Figure | Cell | DocumentCell):
        return x.titled(title) if isinstance(x, Figure) and title else x
    drawer = drawer_of(x)
    if drawer is not None:
        return drawer(x)
    if isinstance(x, xr.Dataset):  # a mapping too, whose "kind" may be a coordinate
        return _dataset(x, title)
    if isinstance(x, Mapping) and isinstance(x.get("kind"), str) and x["kind"] in PAGES:
        return DocumentCell(x)
    if isinstance(x, xr.DataArray):
        return _array(x, title)
    values = _numbers(x)
    if values is not None:
        return heatmap(values, title=title)
    return _in_words(x)


def _dataset(x: xr.Dataset, title: str) -> Figure | Cell | DocumentCell:
    """A lens as its grid, matched units beside their control, anything else by its effects or its first map."""
    if {"correlation", "control", "nearest"} <= set(x.data_vars):
        return DocumentCell(universality_document(x))
    if {"entropy", "top_text", "top_prob"} <= set(x.data_vars) and "pos" in x.dims:
        return lens_grid(x, title=title)
    for name, one in sorted(x.data_vars.items(), key=lambda item: item[0] != "effect"):
        if _is_map(one):
            one, title = _comparable(one, title)
            return heatmap(one, title=title, value=str(name))
    return _result_in_words(x)


def _array(x: xr.DataArray, title: str) -> Figure | Cell:
    """Shares of components as a waterfall, scores of one prompt's tokens on them, anything else as a map."""
    x, title = _comparable(x, title)
    value, dims = str(x.name or "value"), set(x.dims) - {"batch"}
    if x.dtype.kind not in "fiub" or not x.size or not np.isfinite(x.values.astype(float)).any():
        return _result_in_words(x)
    if dims == {"component"} and x.name == "share":
        return waterfall_figure(waterfall(x), title=title, value=str(x.attrs.get("metric", "sum")))
    if dims == {"pos"} and "token" in x.coords:
        return tokens(x, title=title, value=value)
    return heatmap(x, title=title, value=value) if _is_map(x) else _result_in_words(x)


def _comparable(x: xr.DataArray, title: str) -> tuple[xr.DataArray, str]:
    """All prompts, of which a map shows the mean; the first alone where their places are not each other's.

    Scores of tokens are no mean of other tokens', and prompts of different lengths have no places in common.
    """
    if "pos" not in x.dims or x.sizes.get("batch", 1) == 1:
        return x, title
    if set(x.dims) == {"batch", "pos"} or (x.dtype.kind == "f" and bool(np.isnan(x.values).any())):
        return x.isel(batch=[0]).dropna("pos", how="all"), title or of_prompts(0, x.sizes["batch"])
    return x, title


def _is_map(x: xr.DataArray) -> bool:
    sizes = [size for dim, size in x.sizes.items() if dim != "batch"]
    return x.dtype.kind in "fiub" and 1 <= len(sizes) <= 3 and _drawable(sizes)


def _drawable(sizes: Sequence[int]) -> bool:
    """Whether a map of these sides can still be looked at."""
    return 0 < math.prod(sizes) <= _MOST_CELLS and max(sizes) <= _MOST_SIDE


def _result_in_words(x: xr.DataArray | xr.Dataset) -> Cell:
    """Its dimensions and attributes."""
    facts = {str(dim): f"{size:,}" for dim, size in x.sizes.items()}
    facts |= {str(key): str(value)[:120] for key, value in x.attrs.items()}
    name = getattr(x, "name", None) or "Result"
    return Cell(Summary(str(name), "by " + ", ".join(map(str, x.sizes)) if x.sizes else "", facts), x)


def _numbers(x: Any) -> xr.DataArray | None:
    """An array or a tensor of one or two dimensions, labeled by its rows and columns; None for anything else."""
    if not hasattr(x, "shape") or not hasattr(x, "dtype") or len(x.shape) not in (1, 2):
        return None
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = (x.float() if x.is_floating_point() else x).numpy()
    values = np.asarray(x)
    if values.dtype.kind not in "fiub" or not _drawable(values.shape):
        return None
    names = ["row", "column"][: values.ndim]
    return xr.DataArray(
        values.astype(np.float64),
        dims=names,
        coords={n: np.arange(s) for n, s in zip(names, values.shape, strict=True)},
    )


def _in_words(x: Any) -> Cell:
    try:
        text = repr(x)
    except Exception as error:  # of anybody's making
        raise CasebackError(f"a {type(x).__name__} that cannot say what it is: {error}") from error
    return Cell(Summary(type(x).__name__, text if len(text) <= 2000 else f"{text[:1999]}…"), x)
