"""States as points of a plane, beside the same states shuffled: what the plane shows beyond chance."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from caseback.errors import CasebackError
from caseback.reports.document import checked
from caseback.reports.figures.projection import principal_plane, umap_plane
from caseback.views.figure.curves import N_LINES
from caseback.views.figure.figure import Figure
from caseback.views.figure.svg import clipped, element, rect, text, width_of
from caseback.views.numbers_text import percent

__all__ = ["projection"]

_SIDE, _APART = 320.0, 40.0


@checked
def projection(
    states: Any,
    *,
    labels: Sequence[Any] | None = None,
    names: Sequence[str] | None = None,
    method: Literal["pca", "umap"] = "pca",
    neighbors: int = 15,
    seed: int = 0,
    title: str = "",
) -> Figure:
    """Draw states in the plane of their largest variance, or by UMAP, and shuffled ones in theirs.

    Parameters
    ----------
    states
        (example, d), as ``principal_plane`` takes them.
    labels
        One for each example: points of a label share a color. By default all are alike.
    names
        What a pointer shows of each example; by default its number.
    method
        ``"pca"``: the plane of the largest variance, ``principal_plane``; ``"umap"``: places that keep neighbors,
        ``umap_plane``, where ``umap-learn`` is installed.
    neighbors
        Of UMAP: how many nearest states are to stay near.
    seed
        Same seed, same result. Of the control's shuffles, and of UMAP.
    title
        The figure's title; by default none.

    Raises
    ------
    CasebackError
        As ``principal_plane`` and ``umap_plane``, and for another number of labels or names than of examples.

    Examples
    --------
    >>> figure = projection(np.random.default_rng(0).normal(size=(9, 4)), labels=list("aaabbbccc"))
    >>> figure.drawn.count("<circle")
    21
    """
    if method == "umap":
        plane = umap_plane(states, neighbors=neighbors, seed=seed)
    else:
        plane = principal_plane(states, seed=seed)
    n = plane.sizes["example"]
    for what, given in (("labels", labels), ("names", names)):
        if given is not None and len(given) != n:
            raise CasebackError(f"{len(given)} {what} for {n} states: expected one for each")
    kinds = [str(label) for label in labels] if labels is not None else [""] * n
    classes = list(dict.fromkeys(kinds))
    shown = [str(name) for name in names] if names is not None else [str(i) for i in range(n)]
    parts, y = [], 40.0
    for i, (name, by, words) in enumerate((("coordinate", "", "states"), ("control", "_by_control", "shuffled"))):
        x = 4 + i * (_SIDE + _APART)
        about = _share(plane.attrs, by)
        parts += [text(words, x, 14, class_="strong"), text(about, x, 31, class_="small soft")]
        parts.append(rect(x, y, _SIDE, _SIDE, class_="ground"))
        parts += _points(plane[name].values, kinds, classes, shown, x, y)
    bottom = y + _SIDE + 8
    if labels is not None:
        left = 4.0
        for i, name in enumerate(classes):
            room = width_of(clipped(name, 24), 12) + 34
            if left + room > 2 * _SIDE + _APART and left > 4:
                left, bottom = 4.0, bottom + 18
            parts.append(element("circle", cx=left + 6, cy=bottom + 8, r=4, class_=f"dot l{i % N_LINES}"))
            parts.append(text(clipped(name, 24), left + 16, bottom + 12, class_="soft"))
            left += room
        bottom += 22
    return Figure("".join(parts), 2 * _SIDE + _APART + 10, bottom + 4, title, plane, question="How do the states lie?")


def _share(attrs: Mapping[str, Any], by: str) -> str:
    """What a panel keeps of how its states lie."""
    if "neighbors" in attrs:
        return f"{percent(attrs[f'neighbors_kept{by}'])} of each one's {attrs['neighbors']} nearest are so here"
    first, second = attrs[f"variance_kept{by}"]
    return f"{percent(first + second)} of variance: {percent(first)} across, {percent(second)} up"


def _points(
    points: np.ndarray, kinds: list[str], classes: list[str], names: list[str], x: float, y: float
) -> list[str]:
    """Circles of one scale across and up, so that distances are as they are."""
    center = (points.max(0) + points.min(0)) / 2
    reach = float(np.ptp(points, axis=0).max()) or 1.0
    at = (points - center) / reach * (_SIDE - 24)
    radius = 4.0 if len(points) <= 60 else 2.6 if len(points) <= 600 else 1.6
    drawn = []
    for (across, up), kind, name in zip(at.tolist(), kinds, names, strict=True):
        more = element("title", html.escape(f"{name} {kind}".strip())) if len(points) <= 2000 else ""
        place = {"cx": x + _SIDE / 2 + across, "cy": y + _SIDE / 2 - up, "r": radius}
        drawn.append(element("circle", more, **place, class_=f"dot l{classes.index(kind) % N_LINES}", fill_opacity=0.8))
    return drawn
