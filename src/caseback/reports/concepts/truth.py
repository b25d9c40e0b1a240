"""Detectors of truth as plain data: a row for each with its controls, topics one by one, and the plane of truth.

above = low > max(1/2, over baselines of high and 1 - low)          the ends of intervals, on what was held out

A baseline whose AUROC is below one half tells as much as one that is as far above it, so it counts either way round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from caseback.behaviors.truth.detectors import DETECTORS
from caseback.behaviors.truth.report import COLUMNS, GROUPS, TruthReport
from caseback.errors import CasebackError
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts

__all__ = ["TRUTH", "truth_document"]


def _lengths(document: Mapping[str, Any]) -> None:
    topics = len(document["topics"])
    for row in document["rows"]:
        for name in GROUPS:
            own = row[name]
            if own is not None and len(own["topics"]) != topics:
                raise CasebackError(
                    f"{row['name']} has {len(own['topics'])} topics of {topics}: pass what truth_document returned"
                )
    plane = document["plane"]
    if plane is not None and len({len(plane[name]) for name in ("general", "polarity", "true", "negated", "text")}) > 1:
        raise CasebackError(
            "the points of the plane are not as many as their labels: pass what truth_document returned"
        )


TRUTH = DocumentKind(
    "caseback.truth",
    1,
    "a document of truth",
    "truth_document",
    sections=("title", "statements", "topics", "how", "rows", "plane", "left_out", "provenance"),
    lengths=_lengths,
)


@checked
def truth_document(model: Model, report: TruthReport, title: str = "") -> dict[str, Any]:
    """What ``truth_detection`` measured as plain data.

    Parameters
    ----------
    model
        The model.
    report
        What ``caseback.behaviors.truth_detection`` gave for it.
    title
        What the statements are called together.

    Returns
    -------
    dict
        ``rows`` has each detector with what it was fitted to, the ``place`` that most parts chose, and for
        ``affirmative`` and ``negated`` statements its ``auroc`` with ``low`` and ``high``, ``within`` topics with the
        least and the largest topic's, ``shuffled``, ``accuracy``, ``brier``, ``calibration_error`` and each topic's
        own AUROC; None where nothing was judged. ``above`` says of each whether its interval is past every
        baseline's, either way round.
        ``plane`` has the held-out statements of one part and the line where odds are even; None without negations.

    Raises
    ------
    CasebackError
        For a report of another model.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> statements = cb.behaviors.world_statements(["capital", "language", "plural"], each=8)
    >>> report = cb.behaviors.truth_detection(model, statements, methods=["mass_mean"], resamples=20)
    >>> document = truth_document(model, report, "the world")
    >>> document["rows"][0]["name"], document["statements"]["true"]
    ('mass_mean', 48)
    """
    if report.model is not None and report.model.name != model.name:
        raise CasebackError(f"truth of {report.model.name!r}: expected a report of {model.name!r}")
    statements, table = report.statements, report.table
    counts = {topic: 0 for topic in table.relation.values.tolist()}
    for topic in statements.topics:
        counts[str(topic)] += 1
    rows = [_row(report, i) for i in range(table.sizes["variant"])]
    for name in GROUPS:
        # a baseline that is below one half tells as much, the other way round
        beside = [
            max(row[name]["high"], 1 - row[name]["low"])
            for row in rows
            if row["baseline"] and row[name] is not None and row[name]["high"] is not None
        ]
        for row in rows:
            if row[name] is not None:
                low = row[name]["low"]
                row[name]["above"] = not row["baseline"] and low is not None and low > max([0.5, *beside])
    return TRUTH.document(
        model_facts(model),
        title=title,
        statements={
            "count": len(statements),
            "true": int(np.sum(statements.true)),
            "negated": int(np.sum(statements.negated)),
            "facts": len(set(statements.facts.tolist())),
        },
        topics=[{"name": name, "count": count} for name, count in counts.items()],
        how={name: report.how[name] for name in ("hold_out", "n_folds", "resamples", "seed")},
        rows=rows,
        plane=_plane(report),
        left_out=[{"name": name, "lacks": words} for name, words in report.how["left_out"].items()],
        provenance={**model.provenance(), "technique": "truth_detection", "entry": "5.4.20"},
    )


def _row(report: TruthReport, i: int) -> dict[str, Any]:
    own = report.table.isel(variant=i)
    method = str(own.method.values)
    detector = DETECTORS.get(method)
    row: dict[str, Any] = {
        "name": str(own.variant.values),
        "method": method,
        "about": str(own.about.values),
        "citation": "" if detector is None else detector.citation,
        "fitted_to": str(own.fitted_to.values),
        "baseline": bool(own.baseline.values),
        "place": str(own.place.values),
    }
    for name in GROUPS:
        part = own.sel(group=name)
        values = {column: _number(part[column]) for column in COLUMNS}
        topics = [_number(value) for value in part["topic_auroc"]]
        row[name] = None if values["auroc"] is None else values | {"topics": topics, "above": False}
    return row


def _plane(report: TruthReport) -> dict[str, Any] | None:
    plane = report.plane
    if plane is None:
        return None
    line = {name: float(plane.attrs[name]) for name in ("weight_general", "weight_polarity", "bias")}
    return {
        "place": str(plane.attrs["place"]),
        "general": plane["general"].values.tolist(),
        "polarity": plane["polarity"].values.tolist(),
        "true": plane["true"].values.tolist(),
        "negated": plane["negated"].values.tolist(),
        "text": [report.statements.texts[i] for i in plane.batch.values.tolist()],
        "line": line,
    }


def _number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
