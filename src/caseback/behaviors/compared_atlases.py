"""Two atlases side by side: checkpoints of one model, a model and its fine-tune, one model on two texts.

jaccard     = |A and B| / |A or B|    of the units with a label of a kind, beside random sets as large
correlation = Spearman's, of a kind's scores over all units

Units are compared by name, so the second model must have the first one's shape. Two seeds of one training have it too,
but no unit of one is the other's of the same name: of those only the counts can be compared.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from caseback.behaviors.atlas import Atlas, KindReport
from caseback.behaviors.kinds import beyond
from caseback.behaviors.mechanisms.overlap import random_overlap
from caseback.errors import CasebackError
from caseback.model.registry import technique


@dataclass(frozen=True)
class KindChange:
    """What became of one kind.

    Attributes
    ----------
    kind, sort
        Its name, and what its units are.
    units
        How many units there are.
    sizes
        How many have the label in each atlas.
    shared, gained, lost
        Units with the label in both, in the second alone, in the first alone; the furthest past the band come first.
    jaccard
        Of the two sets; None where both are empty.
    chance, band
        Its mean and 95 % quantile for random units, as many in each.
    correlation
        Of the scores over all units; None where those of an atlas are all equal.
    proved
        Of which units a proof succeeded in each atlas.
    """

    kind: str
    sort: str
    units: int
    sizes: tuple[int, int]
    shared: tuple[str, ...]
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    jaccard: float | None
    chance: float | None
    band: float | None
    correlation: float | None
    proved: tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class AtlasComparison:
    """What differs between two atlases.

    Attributes
    ----------
    kinds
        Those that both atlases looked for.
    only
        Kinds that one atlas alone looked for, of the first and of the second.
    about
        What each atlas is of.
    """

    kinds: tuple[KindChange, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]
    about: tuple[dict[str, Any], dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"kinds": [asdict(kind) for kind in self.kinds], "only": list(map(list, self.only)), "about": self.about}


@technique(entry=("5.1.6",), citation="Olsson et al. 2022", cost="none: two atlases")
def compare_atlases(first: Atlas, second: Atlas) -> AtlasComparison:
    """Which units kept, gained and lost each label, beside what random sets as large share.

    Parameters
    ----------
    first, second
        What ``atlas`` or ``load_atlas`` gave, for models of one shape.

    Returns
    -------
    AtlasComparison

    Raises
    ------
    CasebackError
        For atlases whose units differ, or that have no kind in common.

    References
    ----------
    Olsson et al. 2022, "In-context learning and induction heads": kinds of heads over training.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> whole = cb.behaviors.atlas(model, kinds=["induction"], proofs=False)
    >>> without = cb.behaviors.atlas(model.edited([cb.Zero("z", layer=0, head=2)]), kinds=["induction"], proofs=False)
    >>> change = compare_atlases(whole, without).kinds[0]
    >>> change.sizes[0] > change.sizes[1], change.gained
    (True, ())
    """
    reports = [{kind.kind: kind for kind in one.kinds if not kind.missing} for one in (first, second)]
    both = [name for name in reports[0] if name in reports[1]]
    if not both:
        raise CasebackError("these atlases have no kind in common: make both with the same kinds")
    only = tuple(tuple(name for name in reports[i] if name not in reports[1 - i]) for i in (0, 1))
    kinds = [_change(first, second, (reports[0][name], reports[1][name])) for name in both]
    return AtlasComparison(tuple(kinds), (only[0], only[1]), (dict(first.about), dict(second.about)))


def _change(first: Atlas, second: Atlas, reports: tuple[KindReport, KindReport]) -> KindChange:
    kind = reports[0].kind
    frames = [one.scores[kind].set_index("unit") for one in (first, second)]
    odd = frames[0].index.symmetric_difference(frames[1].index)
    if len(odd):
        raise CasebackError(
            f"{odd[0]} is in one atlas alone ({kind}): expected models of the same layers, heads and neurons"
        )
    units = list(map(str, frames[0].index))
    frames = [frame.reindex(frames[0].index) for frame in frames]
    ahead = [_ahead(frame, report) for frame, report in zip(frames, reports, strict=True)]
    a, b = (one > 0 for one in ahead)
    chance, band, _ = random_overlap(len(units), int(a.sum()), int(b.sum()), int((a & b).sum()))
    either = int((a | b).sum())
    scores = [frame.score.to_numpy(dtype=float) for frame in frames]
    flat = any(len(np.unique(one[~np.isnan(one)])) < 2 for one in scores)
    return KindChange(
        kind,
        reports[0].sort,
        len(units),
        (int(a.sum()), int(b.sum())),
        _named(units, ahead[0], a & b),
        _named(units, ahead[1], b & ~a),
        _named(units, ahead[0], a & ~b),
        int((a & b).sum()) / either if either else None,
        chance,
        band,
        None if flat else float(np.asarray(spearmanr(*scores, nan_policy="omit"))[0]),
        (_proved(first, kind), _proved(second, kind)),
    )


def _ahead(frame: pd.DataFrame, report: KindReport) -> np.ndarray:
    """How far each unit is past what makes a label; 0 for those without it."""
    score, band = (frame[name].to_numpy(dtype=float) for name in ("score", "band"))
    return np.where(beyond(score, band, report.threshold), score - np.maximum(band, report.threshold), 0.0)


def _named(units: list[str], ahead: np.ndarray, which: np.ndarray) -> tuple[str, ...]:
    order = np.argsort(-ahead, kind="stable")
    return tuple(units[int(i)] for i in order if which[i])


def _proved(atlas: Atlas, kind: str) -> tuple[str, ...]:
    return tuple(one.component for one in atlas.candidates if one.kind == kind and one.grade == "proved")
