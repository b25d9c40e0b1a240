"""Maps as a figure: layer by position, layer by head, above each other with one scale.

Orange is positive, for the target, blue negative, for the foil, and no shade 0: a pair that color-blind readers can
tell apart. All maps of a figure share one scale that is centered on 0. Layers run upwards.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from caseback.errors import CasebackError
from caseback.reports.document import checked
from caseback.reports.maps import Map, as_map, of_layers
from caseback.views.figure.figure import Figure
from caseback.views.figure.grid import Grid, scale_bar
from caseback.views.figure.shades import image_of
from caseback.views.figure.svg import text, width_of

__all__ = ["heatmap"]

_ROOM = 660


@checked
def heatmap(
    maps: Map | xr.DataArray | Mapping[str, Map | xr.DataArray],
    *,
    title: str = "",
    value: str = "value",
    signed: bool = True,
) -> Figure:
    """Draw one map, or several above each other with one scale.

    Parameters
    ----------
    maps
        A result of one to three dimensions besides ``batch``, as ``as_map`` takes it; or a map of ``reports.maps``; or
        several of either by their titles.
    title
        The figure's title; by default none.
    value
        What the numbers are, for the scale and what a pointer shows.
    signed
        Whether a number's sign speaks for or against something, orange above 0 and blue below; without it shades of one
        color begin at 0.

    Returns
    -------
    Figure
        A figure whose labels show whitespace as ``visible`` does.

    Raises
    ------
    CasebackError
        If there is nothing to draw, a number is infinite, or negative without ``signed``, and as ``as_map``.

    Examples
    --------
    >>> effects = xr.DataArray([[1.0, -2.0]], dims=["layer", "head"], coords={"layer": [0], "head": [0, 1]})
    >>> figure = heatmap(effects, value="effect")
    >>> figure.maps[0]["rows"], figure.maps[0]["cols"]
    (['0'], ['0', '1'])
    """
    given = dict(maps) if isinstance(maps, Mapping) else {"": maps}
    panels = {name: as_map(one) if isinstance(one, xr.DataArray) else one for name, one in given.items()}
    if not panels:
        raise CasebackError("nothing to draw: no map given")
    if not all(one.values.size for one in panels.values()):
        raise CasebackError("nothing to draw: a map without a cell")
    if any(np.isinf(one.values).any() for one in panels.values()):
        raise CasebackError("a map with an infinite number has no scale: put nan where nothing is to be drawn")
    if not signed and any((one.values < 0).any() for one in panels.values()):
        raise CasebackError("a map without a sign begins at 0, and a number of this one is negative: leave signed=True")
    grids = [_grid(one) for one in panels.values()]
    most = max(one.largest for one in panels.values())
    left = max(grid.left + grid.beyond for grid in grids)
    # panels with equal columns share their labels
    alike = len({tuple(grid.columns) for grid in grids}) == 1
    drawn, cells, y = [scale_bar(left, 2, most, value, is_signed=signed)], [], 42.0
    for i, (name, grid, one) in enumerate(zip(panels, grids, panels.values(), strict=True)):
        if name:
            drawn.append(text(name, left, y + 4, class_="strong"))
            y += 14
        labels = not alike or i == len(grids) - 1
        drawn.append(
            grid.drawn(left, y, image_of(grid.upper_first(one.values), most, signed=signed), labels_below=labels)
        )
        cells.append(
            grid.for_script(left, y, [grid.numbers(value, one.values, "signed" if signed else "", one.spread)])
        )
        y += grid.size[1] + (grid.below if labels else 0) + 14
    wide = max(max(grid.size[0] for grid in grids), 166 + width_of(value, 11), *(width_of(name, 13) for name in panels))
    several = max(one.n for one in panels.values())
    question = f"Where is the {value} large?"
    caption = f"Means of {several} prompts." if several > 1 else ""
    return Figure("".join(drawn), left + wide + 8, y - 8, title, maps, cells, caption=caption, question=question)


def _grid(one: Map) -> Grid:
    n_rows, n_columns = one.values.shape
    names = ["position" if name == "pos" else name for name in (one.rows.name, one.columns.name)]
    wide, high = np.clip([_ROOM / n_columns, 480 / n_rows], [11, 8], [34, 22]).tolist()
    sides = one.rows.labels, one.columns.labels, names[0], names[1]
    return Grid(*sides, of_layers(one.rows), round(wide, 1), round(high, 1))
