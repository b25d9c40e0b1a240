"""What judging detectors of truth gave: one row for each detector and what it was fitted to, with its controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from caseback.behaviors.truth.detectors import Detector
from caseback.behaviors.truth.measures import auroc, calibration, interval, resampled, within_topics
from caseback.decode.probes.splits import numbered
from caseback.errors import CasebackError, did_you_mean
from caseback.model.running.model import Model
from caseback.tasks.statements import Statements

GROUPS = ("affirmative", "negated")
COLUMNS = (
    *("auroc", "low", "high", "within", "topic_low", "topic_high"),
    *("shuffled", "accuracy", "brier", "calibration_error"),
)


@dataclass(frozen=True, eq=False)
class Judged:
    """One detector's scores of all statements, each by the part that has not seen it.

    Attributes
    ----------
    detector
        Which.
    fitted_to
        ``"affirmative"`` statements, or ``"both"`` these and negated ones.
    scores, probability
        Of each statement; ``scores`` are comparable across parts, ``probability`` is calibrated.
    chance
        Scores of the same fitted to shuffled labels; None for what is not fitted.
    places
        The place that each part chose.
    """

    detector: Detector
    fitted_to: str
    scores: np.ndarray
    probability: np.ndarray
    chance: np.ndarray | None
    places: list[str]

    @property
    def name(self) -> str:
        """The row's name."""
        fitted_to_both = self.fitted_to == "both" and "negated" not in self.detector.needs
        return f"{self.detector.name}, both" if fitted_to_both else self.detector.name


@dataclass(frozen=True, eq=False)
class TruthReport:
    """Detectors of truth, judged.

    Attributes
    ----------
    statements
        What they were judged on.
    table
        By ``variant`` (detector, and after a comma ``both`` where it was fitted to negated statements too) and
        ``group`` (affirmative statements and negated ones): ``auroc`` on what was held out with ``low`` and ``high``,
        ``within`` (the mean of topics' own) with the least and the largest topic's, ``shuffled`` (AUROC with shuffled
        labels), ``accuracy``, ``brier`` and ``calibration_error`` of probabilities. NaN where nothing was judged.
    probability
        (variant, batch): that each statement is true, by a fit that has not seen its topic.
    plane
        Held-out statements of one part: ``general`` and ``polarity``, and the line where odds are even in its
        attributes. None without negated statements.
    how
        What was asked for, and which detectors were left out and why.
    model
        Whose states were read.
    """

    statements: Statements
    table: xr.Dataset
    probability: xr.DataArray
    plane: xr.Dataset | None
    how: dict[str, Any]
    model: Model | None = None

    def row(self, name: str, group: str = "affirmative") -> dict[str, float]:
        """The numbers of one detector.

        Raises
        ------
        CasebackError
            For a name or a group that the table does not have.
        """
        names = self.table.variant.values.tolist()
        if name not in names or group not in GROUPS:
            raise CasebackError(f"no row {name!r} of {group!r}. {did_you_mean(name, names, most=len(names))}")
        own = self.table.sel(variant=name, group=group)
        return {column: float(own[column]) for column in COLUMNS}

    def __repr__(self) -> str:
        of = self.table["auroc"].sel(group="affirmative")
        shown = ", ".join(
            f"{name} {value:.3f}" for name, value in zip(of.variant.values[:4], of.values[:4], strict=True)
        )
        return f"TruthReport({len(self.statements)} statements; AUROC {shown} ...)"


def table_of(
    rows: Sequence[Judged], statements: Statements, resamples: int, seed: int
) -> tuple[xr.Dataset, xr.DataArray]:
    """The table of judged detectors, and every statement's probabilities."""
    n = len(statements)
    true, negated = np.asarray(statements.true, bool), np.asarray(statements.negated, bool)
    topics, topic = numbered(statements.topics, "topics", n)
    values = {column: np.full((len(rows), 2), np.nan) for column in COLUMNS}
    of_topics = np.full((len(rows), 2, len(topics)), np.nan)
    for k, some in enumerate((~negated, negated)):
        if len(set(true[some].tolist())) < 2:
            continue
        weights = resampled(np.asarray(statements.facts)[some], resamples, seed)
        for i, row in enumerate(rows):
            own = row.scores[some]
            low, high = interval(auroc(own, true[some], weights))
            within = within_topics(own, true[some], topic[some])
            for t, value in within.items():
                of_topics[i, k, t] = value
            apart = list(within.values()) or [np.nan]
            numbers = (
                *(float(auroc(own, true[some])[0]), low, high, float(np.mean(apart)), min(apart), max(apart)),
                np.nan if row.chance is None else float(auroc(row.chance[some], true[some])[0]),
                *calibration(row.probability[some], true[some]),
            )
            for column, value in zip(COLUMNS, numbers, strict=True):
                values[column][i, k] = value
    names = [row.name for row in rows]
    coords = {
        "variant": names,
        "group": list(GROUPS),
        "relation": [str(name) for name in topics],
        "method": ("variant", [row.detector.name for row in rows]),
        "about": ("variant", [row.detector.about for row in rows]),
        "fitted_to": ("variant", [row.fitted_to if row.detector.fit else "nothing" for row in rows]),
        "baseline": ("variant", [row.detector.baseline for row in rows]),
        "place": ("variant", [_commonest(row.places) for row in rows]),
    }
    arrays: dict[str, Any] = {column: (["variant", "group"], value) for column, value in values.items()}
    arrays["topic_auroc"] = (["variant", "group", "relation"], of_topics)
    table = xr.Dataset(arrays, coords)
    both = np.stack([row.probability for row in rows])
    return table, xr.DataArray(both, {"variant": names}, ["variant", "batch"], name="probability")


def _commonest(places: Sequence[str]) -> str:
    return max(dict.fromkeys(places), key=places.count)
