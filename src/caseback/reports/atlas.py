"""An atlas as a document: kinds with their controls, candidates with their proofs, and a map of heads by label."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from caseback.behaviors.atlas import Atlas, KindReport
from caseback.behaviors.kinds import beyond
from caseback.behaviors.stream.depth import depth_profile
from caseback.errors import CasebackError
from caseback.jobs.json_text import finite_or_none
from caseback.model.arguments import checked
from caseback.model.graph.names import parse_name
from caseback.reports.document import DocumentKind

__all__ = ["ATLAS", "atlas_document"]

STRONGEST = 200
"""Labeled neurons of a kind whose scores a document has."""


def _expect_known_kinds(document: Mapping[str, Any]) -> None:
    """Refuse candidates and labels of kinds that the document does not describe."""
    known = {kind["kind"] for kind in document["kinds"]}
    mapped = [*document["units"], *document["experts"]]
    named = {one["kind"] for one in document["candidates"]} | {kind for unit in mapped for kind in unit["labels"]}
    if odd := sorted(named - known):
        raise CasebackError(f"candidates or units are labeled {odd[0]!r}, a kind that the document does not describe")


ATLAS = DocumentKind(
    "caseback.atlas",
    2,
    "a document of an atlas",
    "atlas_document",
    sections=("kinds", "candidates", "units", "experts", "layers", "facts"),
    lengths=_expect_known_kinds,
)


@checked
def atlas_document(atlas: Atlas) -> dict[str, Any]:
    """An atlas as plain data.

    Parameters
    ----------
    atlas
        What ``caseback.behaviors.atlas`` or ``load_atlas`` gave.

    Returns
    -------
    dict
        ``model`` says what it is of; ``kinds`` has a row for each kind, as of ``KindReport``; ``candidates`` the best
        units of every kind, as of ``Finding``; ``units`` every head that has a label, with its ``labels`` and which of
        them are ``proved``; ``experts`` every expert of a mixture that was looked at, likewise, with the ``classes`` of
        its labels; ``looks`` by kind the ``score`` and ``control``, of three digits, of each ``unit``: of all heads and
        experts, and of the labeled neurons with the largest scores; ``cards`` by name the words and windows of
        candidates that have a label, see ``behaviors.cards``; ``layers`` how many units of each kind have the
        label, layer by layer, with the shares as ``profile``, see ``stream.depth``; ``facts`` those of the stream, as
        of ``Fact``, None for a number that does not exist.

    Examples
    --------
    >>> import caseback as cb
    >>> atlas = cb.behaviors.atlas(cb.load("meadow"), kinds=["induction"], top=1)
    >>> [unit["name"] for unit in atlas_document(atlas)["units"]][0]
    'L2H0'
    """
    n_layers = int(atlas.about.get("layers", 0))
    proved = {(f.component, f.kind) for f in atlas.candidates if f.grade == "proved"}
    by_kind = {report.kind: report for report in atlas.kinds}
    units, layers = [], {report.kind: [0] * n_layers for report in atlas.kinds if not report.missing}
    for name, labels in atlas.labels().items():
        parsed = parse_name(name)
        for kind in labels:
            layers[kind][parsed.layer] += 1
        if parsed.kind == "head":
            own = {"name": name, "layer": parsed.layer, "head": parsed.index, "labels": labels}
            units.append(own | {"proved": [kind for kind in labels if (name, kind) in proved]})
    experts = _experts(atlas, proved)
    units.sort(key=lambda unit: (unit["layer"], unit["head"]))
    facts = {name: value for name, value in atlas.about.items() if value is not None}
    return ATLAS.document(
        {"name": facts.get("model", "a model"), **facts},
        kinds=[asdict(report) for report in atlas.kinds],
        candidates=atlas.candidates.to_json()["findings"],
        units=units,
        experts=experts,
        looks={report.kind: _look(atlas.scores[report.kind], report) for report in atlas.kinds if not report.missing},
        cards=dict(atlas.cards),
        facts=[finite_or_none(fact.to_json()) for fact in atlas.facts],
        layers=[
            {"kind": kind, "counts": counts, "profile": _profile(atlas.scores[kind], by_kind[kind])}
            for kind, counts in layers.items()
        ],
        provenance=facts,
    )


def _experts(atlas: Atlas, proved: Set[tuple[str, str]]) -> list[dict[str, Any]]:
    """Every expert with its labels, and what each label is of: a domain, a kind of tokens."""
    frames = {
        r.kind: atlas.scores[r.kind].set_index("unit") for r in atlas.kinds if r.sort == "expert" and not r.missing
    }
    labels = atlas.labels()
    experts = []
    for name in dict.fromkeys(str(unit) for frame in frames.values() for unit in frame.index):
        parsed, own = parse_name(name), labels.get(name, [])
        classes = [str(frames[kind]["class"].get(name, "")) if "class" in frames[kind] else "" for kind in own]
        of = {"labels": own, "classes": classes, "proved": [kind for kind in own if (name, kind) in proved]}
        experts.append({"name": name, "layer": parsed.layer, "expert": parsed.index, **of})
    return experts


def _look(frame: pd.DataFrame, report: KindReport) -> dict[str, list[Any]]:
    """Scores unit by unit: of all heads or experts, of neurons the strongest that have the label."""
    own = frame
    if report.sort == "neuron":
        labeled = np.asarray(beyond(frame.score, frame.band, report.threshold), dtype=bool)
        own = frame.loc[labeled].sort_values(by="score", ascending=False, kind="stable").head(STRONGEST)
    columns = {name: [_digits(x) for x in own[name].to_numpy(float)] for name in ("score", "control")}
    return {"unit": [str(name) for name in own.unit], **columns}


def _digits(value: float) -> float | None:
    return float(f"{value:.3g}") if np.isfinite(value) else None


def _profile(frame: pd.DataFrame, report: KindReport) -> dict[str, list[float]]:
    """Shares of labels by layer, of the layers that have such units."""
    labeled = np.asarray(beyond(frame.score, frame.band, report.threshold), dtype=bool)
    return depth_profile([parse_name(name).layer for name in frame.unit], labeled)
