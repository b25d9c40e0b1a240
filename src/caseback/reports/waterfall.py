"""A waterfall: shares of a whole, one below the other, each bar beginning where the one above it ended.

    end_i = start_i + share_i,    start_0 = 0,    the last end is the whole

The terminal and the page draw the same bars.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from caseback.errors import CasebackError
from caseback.model.arguments import checked
from caseback.model.graph.names import head_name
from caseback.reports.tokens_text import visible

__all__ = ["Bar", "Waterfall", "waterfall"]


@dataclass(frozen=True)
class Bar:
    """One share, or the sum of several that are too small to show.

    Attributes
    ----------
    name
        The part's name, with visible tokens.
    value, start
        Its share, a mean over prompts, and the sum of the shares above it.
    spread
        Its standard deviation over prompts; None for a single prompt.
    """

    name: str
    value: float
    start: float
    spread: float | None

    @property
    def end(self) -> float:
        """The sum of the shares up to this one."""
        return self.start + self.value


@dataclass(frozen=True)
class Waterfall:
    """Bars from top to bottom, and the whole that they end at.

    Attributes
    ----------
    whole
        What all shares are parts of, in words; ``total`` is their sum and ``spread`` its standard deviation over
        prompts.
    n
        How many prompts the numbers are means of.
    """

    bars: list[Bar]
    whole: str
    total: float
    spread: float | None
    n: int

    @property
    def extent(self) -> tuple[float, float]:
        """The smallest and the largest running total, counting 0; never equal."""
        ends = [0.0, self.total, *(bar.end for bar in self.bars)]
        low, high = min(ends), max(ends)
        return (low, high) if high > low else (low, low + 1.0)


@checked
def waterfall(shares: xr.DataArray, *, top: int = 20, whole: str = "sum") -> Waterfall:
    """Shares as a waterfall: in their own order if all of them fit, else the largest first and the rest as one bar.

    Parameters
    ----------
    shares
        (component, batch) or (component,), as the attributions of ``caseback.localize.components`` return them; or by
        head and position, (layer, head, key, batch).
    top
        How many parts get their own bar.
    whole
        What they are the parts of, in words.

    Raises
    ------
    CasebackError
        For shares with other dimensions, or ``top`` below 1.

    Examples
    --------
    >>> drawn = waterfall(xr.DataArray([[3.0], [-1.0], [0.5]], dims=["component", "batch"]), top=1)
    >>> [(bar.name, bar.start, bar.end) for bar in drawn.bars]
    [('0', 0.0, 3.0), ('2 others', 3.0, 2.5)]
    """
    if top < 1:
        raise CasebackError(f"top={top}: expected at least 1 part to show")
    names, values = _named(shares)
    mean = values.mean(1)
    order = np.arange(len(mean))
    if len(mean) > top:
        order = np.argsort(-np.abs(mean), kind="stable")
    shown, rest = order[:top], order[top:]
    parts = [(names[i], values[i]) for i in shown.tolist()]
    if len(rest):
        parts.append((f"{len(rest)} others", values[rest].sum(0)))
    bars: list[Bar] = []
    for name, each in parts:
        bars.append(Bar(name, float(each.mean()), bars[-1].end if bars else 0.0, _spread(each)))
    total = values.sum(0)
    return Waterfall(bars, whole, float(total.mean()), _spread(total), values.shape[1])


def _named(shares: xr.DataArray) -> tuple[list[str], np.ndarray]:
    """Names and (part, batch) values."""
    whole = shares if "batch" in shares.dims else shares.expand_dims(batch=1)
    dims = {str(dim) for dim in whole.dims}
    if dims == {"component", "batch"}:
        return [str(c) for c in whole.component.values.tolist()], whole.transpose("component", "batch").values
    if dims == {"layer", "head", "key", "batch"}:
        return _paths(whole.transpose("layer", "head", "key", "batch"))
    raise CasebackError(
        f"a waterfall is of shares by (component, batch) or (layer, head, key, batch), not by {tuple(shares.dims)}"
    )


def _paths(shares: xr.DataArray) -> tuple[list[str], np.ndarray]:
    """One part per head and position that any prompt has; named with its token if all prompts have the same tokens."""
    rows = None
    if "token" in shares.coords:
        tokens = shares.token.transpose("batch", "key").values if shares.token.ndim == 2 else shares.token.values[None]
        rows = tokens[0] if (tokens == tokens[0]).all() else None
    layers = shares.layer.values.tolist()
    names, values = [], []
    for i, j, k in np.ndindex(*shares.shape[:3]):
        each = shares.values[i, j, k]
        if np.isnan(each).all():
            continue
        token = "" if rows is None else f" {visible(str(rows[k]))}"
        names.append(f"{head_name(layers[i], j)} ← {k}{token}")
        values.append(np.nan_to_num(each))
    return names, np.array(values)


def _spread(each: np.ndarray) -> float | None:
    return float(each.std()) if len(each) > 1 else None
