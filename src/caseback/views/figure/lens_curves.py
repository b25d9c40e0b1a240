"""How well lenses read, depth by depth, as curves: divergence from the model and bias, one line per lens."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr

from caseback.errors import CasebackError
from caseback.reports.document import checked
from caseback.views.figure.curves import legend, panel
from caseback.views.figure.figure import Figure

__all__ = ["lens_curves"]

_NAMES = {"kl": "KL(model ‖ lens), nats", "bias": "bias, nats", "agreement": "agreement"}
_ACROSS, _HIGH, _LEFT = 260.0, 190.0, 52.0


@checked
def lens_curves(measured: Mapping[str, xr.Dataset], *, title: str = "") -> Figure:
    """Draw what ``lens_quality`` measured for one lens or several.

    Parameters
    ----------
    measured
        Its results by the lenses' names; on the same corpus, or the lines cannot be compared.
    title
        The figure's title; by default none.

    Raises
    ------
    CasebackError
        If there is nothing to draw, or the corpora differ in size.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary import lens_quality
    >>> quality = lens_quality(cb.load("meadow"), ["Mary went to the store."])
    >>> lens_curves({"logit lens": quality}).drawn.count("class='trend l0'")
    4
    """
    if not measured:
        raise CasebackError("nothing to draw: no lens was measured")
    counts = {name: quality["kl"].attrs["tokens"] for name, quality in measured.items()}
    if len(set(counts.values())) > 1:
        raise CasebackError(f"these lenses were measured on different corpora, of {counts} tokens: use the same one")
    layers = [str(layer) for layer in next(iter(measured.values()))["layer"].values.tolist()]
    parts = []
    for i, (statistic, words) in enumerate(_NAMES.items()):
        lines = {name: quality[statistic].values.tolist() for name, quality in measured.items()}
        x = _LEFT + i * (_ACROSS + _LEFT)
        parts.append(panel(lines, layers, x=x, y=24, wide=_ACROSS, high=_HIGH, title=words, axis="after layer"))
    width = len(_NAMES) * (_ACROSS + _LEFT)
    names, high = legend(list(measured), _LEFT, _HIGH + 66, width - _LEFT)
    return Figure(
        "".join(parts) + names,
        width,
        _HIGH + 70 + high,
        title,
        measured,
        question="How does it change from layer to layer?",
    )
