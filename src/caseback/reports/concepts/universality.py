"""Two models side by side as a document: units that both have beside the rotated control, families, layers alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from caseback.behaviors.seeds.universality import UNIVERSAL
from caseback.errors import CasebackError
from caseback.model.graph.names import parse_name
from caseback.reports.document import DocumentKind, checked

__all__ = ["UNIVERSALITY", "universality_document"]

POINTS = 101


def _lengths(document: Mapping[str, Any]) -> None:
    ranks, alike = document["ranks"], document["similarity"]
    if len({len(ranks[name]) for name in ("share", "correlation", "control")}) > 1:
        raise CasebackError("the curves of the ranks differ in length: pass what universality_document returned")
    if alike is not None:
        for name in ("similarity", "chance"):
            rows = alike[name]
            if len(rows) != len(alike["layer"]) or any(len(row) != len(alike["layer_to"]) for row in rows):
                raise CasebackError(f"{name!r} is not layers by layers: pass what universality_document returned")


UNIVERSALITY = DocumentKind(
    "caseback.universality",
    1,
    "a document of two models' units",
    "universality_document",
    sections=("other", "units", "universal", "layers", "ranks", "strongest", "families", "similarity", "provenance"),
    lengths=_lengths,
)


@checked
def universality_document(
    matched: xr.Dataset,
    *,
    similarity: xr.Dataset | None = None,
    families: xr.Dataset | None = None,
    top: int = 10,
    folders: tuple[str, str] = ("", ""),
) -> dict[str, Any]:
    """Which units of a model another one has too, as plain data.

    Parameters
    ----------
    matched
        What ``universality`` gave.
    similarity
        What ``layer_similarity`` gave of the same models; None leaves it out.
    families
        What ``universal_families`` gave of these matches; None leaves them out.
    top
        How many of the strongest units are listed.
    folders
        Where the two models are kept: what they are called where both have one name.

    Returns
    -------
    dict
        ``model`` and ``other``: the two; ``units``: of which sort, ``n`` of them and ``tokens`` read; ``universal``:
        the share of units past the bound, with the ``bound`` and the medians of ``correlation`` and ``control``;
        ``layers``: the same by layer; ``ranks``: both sorted by size, at shares from 0 to 1; ``strongest``: units by
        excess; ``families``: rows of ``universal_families`` and what is ``missing``; ``similarity``: layers by layers
        with ``chance``; ``provenance``.

    Raises
    ------
    CasebackError
        For a result of another function.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> texts = ["Mary gave a drink to John", "the cat is on the table"]
    >>> matched = cb.behaviors.universality(model, model, texts, units="head")
    >>> document = universality_document(matched, top=1)
    >>> document["universal"]["correlation"], document["strongest"][0]["correlation"]
    (1.0, 1.0)
    """
    if not {"correlation", "control", "excess", "nearest"} <= set(matched.data_vars):
        raise CasebackError(f"a result with {', '.join(map(str, matched.data_vars))}: expected that of universality")
    about = matched.correlation.attrs
    values = {name: np.asarray(matched[name].values) for name in ("correlation", "control", "excess")}
    values["universal"] = values["excess"] > UNIVERSAL
    names, nearest = ([str(name) for name in of.values] for of in (matched.component, matched.nearest))
    layer = np.array([parse_name(name).layer for name in names])
    best = np.argsort(-values["excess"], kind="stable")[:top].tolist()
    shares = np.linspace(0, 1, POINTS)
    layers = [
        {"layer": one, "n": int((layer == one).sum())}
        | {name: float(values[name][layer == one].mean()) for name in ("correlation", "control", "universal")}
        for one in sorted(set(layer.tolist()))
    ]
    both = str(about.get("model", "a model")), str(matched.attrs["other"])
    name, other = folders if both[0] == both[1] and all(folders) else both
    return UNIVERSALITY.document(
        {"name": name, "n_layers": len(layers)},
        other=other,
        units={"sort": str(matched.attrs["units"]), "n": len(names), "tokens": int(matched.attrs["n_tokens"])},
        universal={
            "share": float(values["universal"].mean()),
            "bound": UNIVERSAL,
            **{name: float(np.median(values[name])) for name in ("correlation", "control")},
        },
        layers=layers,
        ranks={
            "share": shares.tolist(),
            **{name: np.quantile(values[name], 1 - shares).tolist() for name in ("correlation", "control")},
        },
        strongest=[
            {"unit": names[i], "nearest": nearest[i]}
            | {name: float(values[name][i]) for name in ("correlation", "control", "excess")}
            for i in best
        ],
        families=None if families is None else _families(families),
        similarity=None if similarity is None else _similarity(similarity),
        provenance={
            name: about[name]
            for name in ("model", "revision", "other", "units", "n_tokens", "skip", "seed", "dtype", "caseback_version")
            if about.get(name) not in (None, "")
        },
    )


def _families(families: xr.Dataset) -> dict[str, Any]:
    names = [str(name) for name in families.data_vars]
    rows = [
        {"family": str(family), **{name: _plain(families[name].values[i]) for name in names}}
        for i, family in enumerate(families.group.values)
    ]
    return {"rows": rows, "missing": str(families.attrs["missing"])}


def _similarity(similarity: xr.Dataset) -> dict[str, Any]:
    layers = {name: [int(layer) for layer in similarity[name].values] for name in ("layer", "layer_to")}
    both = ("similarity", "chance")
    return layers | {name: [[_plain(value) for value in row] for row in similarity[name].values] for name in both}


def _plain(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
