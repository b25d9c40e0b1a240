"""A logit, or a difference of two, as the direct shares of a model's parts, and the waterfall that is drawn of them.

metric = sum_part share_part,    parts as ``SPLITS`` names them
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from caseback.errors import CasebackError, did_you_mean
from caseback.localize.components.logit_attribution import logit_attribution
from caseback.localize.components.neuron_attribution import neuron_attribution
from caseback.localize.components.source_attribution import source_attribution
from caseback.model.arguments import checked
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.reports.waterfall import Waterfall, waterfall

__all__ = ["SPLITS", "direct_shares", "expect_split", "share_waterfall", "taken_back"]

SPLITS = {
    "component": "all components",
    "branch": "attention and MLPs",
    "layer": "layers",
    "head": "heads",
    "neuron": "MLPs, by neuron",
    "source": "heads, by the position they read",
}
"""What a prediction is split by, and what the parts shown are parts of."""
_WHOLE = {"head": "heads", "source": "heads", "neuron": "MLPs"}
_SMALL = 0.05  # of the largest share tested: what is taken back of less matters to nobody


@checked
def expect_split(by: str, option: str = "by") -> None:
    """Refuse what nothing can be split by."""
    if by not in SPLITS:
        raise CasebackError(f"{option} {by!r} is unknown. {did_you_mean(by, list(SPLITS))}")


@checked
def direct_shares(
    model: Model, tokens: Tokens, metric: Metric, by: str = "component", *, top: int = 20
) -> xr.DataArray:
    """The shares of a metric, by whichever technique splits so.

    Parameters
    ----------
    model, tokens, metric
        As for ``logit_attribution``.
    by
        One of ``SPLITS``. Heads come with the other components, whose sum with them is the metric.
    top
        How many neurons are told apart.

    Raises
    ------
    CasebackError
        For another ``by``, and for what the technique refuses.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> direct_shares(model, model.tokens("Mary gave a drink to"), cb.logit(" John"), "layer").sizes["batch"]
    1
    """
    expect_split(by)
    if by == "neuron":
        return neuron_attribution(model, tokens, metric, top=top)
    if by == "source":
        return source_attribution(model, tokens, metric)
    return logit_attribution(model, tokens, metric, by="component" if by == "head" else by)


@checked
def share_waterfall(shares: xr.DataArray, by: str, *, top: int = 20) -> Waterfall:
    """Shares as a waterfall: of heads alone where it is split by head.

    Parameters
    ----------
    shares
        What ``direct_shares`` gave for ``by``.
    by, top
        As for ``direct_shares``; so many parts are shown by themselves.
    """
    if by == "head":
        shares = shares[shares.kind == "head"]
    # besides the neurons: what the MLPs write apart from those chosen
    rest = int((shares.kind != "neuron").sum()) if by == "neuron" else 0
    return waterfall(shares, top=top + rest, whole=_WHOLE.get(by, "sum"))


@checked
def taken_back(writes: xr.Dataset) -> list[tuple[str, float, float, str]]:
    """The components whose share a later one takes back: name, share, fraction, and who takes most of it.

    Parameters
    ----------
    writes
        What ``erased_writes`` gave.
    """
    rows = []
    shares, fractions = (writes[key].mean("batch").values for key in ("share", "fraction"))
    for i, name in enumerate(writes.component.values.tolist()):
        flagged = bool(writes.flagged[i].any()) and fractions[i] >= writes.attrs["at_least"]
        if not flagged or abs(shares[i]) < _SMALL * np.abs(shares).max():
            continue
        most = writes.path.values[int(np.abs(writes.erased[i].mean("batch").values).argmax())]
        rows.append((name, float(shares[i]), min(float(fractions[i]), 1.0), str(most)))
    return rows
