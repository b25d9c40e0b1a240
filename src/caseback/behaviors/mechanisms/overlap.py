"""Which proved heads two behaviors share, beside what chance shares (PRIMER 5.4.7, 5.4.18).

jaccard = |A and B| / |A or B|
chance  = the same of random sets as large: the shared number is hypergeometric
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import hypergeom

from caseback.behaviors.mechanisms.report import BehaviorReport
from caseback.errors import CasebackError
from caseback.model.graph.names import parse_name
from caseback.model.registry import technique


@dataclass(frozen=True)
class Overlap:
    """What two behaviors share.

    Attributes
    ----------
    first, second
        The behaviors.
    shared
        Heads that are proved in both.
    sizes
        How many heads are proved in each.
    jaccard
        Shared heads as a share of all that are proved in either; None where none is.
    chance, band
        Its mean and 95 % quantile for random heads, as many in each.
    p
        How likely as many shared heads are by chance.
    """

    first: str
    second: str
    shared: tuple[str, ...]
    sizes: tuple[int, int]
    jaccard: float | None
    chance: float | None
    band: float | None
    p: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"shared": list(self.shared), "sizes": list(self.sizes)}


@technique(entry=("5.4.7", "5.4.18"), citation="Merullo et al. 2024, Hanna et al. 2024", cost="none: two reports")
def overlap(first: BehaviorReport, second: BehaviorReport) -> Overlap:
    """The heads that are proved in two behaviors of one model, beside random heads as many.

    Parameters
    ----------
    first, second
        What ``behavior`` gave for one model.

    Returns
    -------
    Overlap

    Raises
    ------
    CasebackError
        For reports of different models.

    References
    ----------
    Merullo et al. 2024, "Circuit component reuse across tasks in transformer language models".

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> report = cb.behaviors.behavior(model, "induction", prompts=8, places=False)
    >>> overlap(report, report).jaccard, sorted(overlap(report, report).shared) == sorted(report.proved())
    (1.0, True)
    """
    models = [report.about_model.get("model") for report in (first, second)]
    if models[0] != models[1]:
        raise CasebackError(f"reports of {models[0]!r} and {models[1]!r}: expected two of one model")
    sets = [{name for name in report.proved() if parse_name(name).kind == "head"} for report in (first, second)]
    total, (a, b) = int(first.about_model["parts"]), map(len, sets)
    names = first.behavior, second.behavior
    shared = sets[0] & sets[1]
    in_order = tuple(sorted(shared, key=lambda name: parse_name(name)[1:3]))
    chance, band, p = random_overlap(total, a, b, len(shared))
    jaccard = len(shared) / len(sets[0] | sets[1]) if a + b else None
    return Overlap(*names, in_order, (a, b), jaccard, chance, band, p)


def random_overlap(total: int, a: int, b: int, shared: int) -> tuple[float | None, float | None, float]:
    """What random sets of ``a`` and ``b`` of ``total`` units share.

    Returns
    -------
    tuple
        The mean and the 95 % quantile of their Jaccard index (None where both are empty), and how likely they share at
        least ``shared``.

    Examples
    --------
    >>> random_overlap(4, 1, 1, 1)
    (0.25, 1.0, 0.25)
    """
    if not a + b:
        return None, None, 1.0
    counts = np.arange(min(a, b) + 1)
    chances, at = hypergeom.pmf(counts, total, a, b), counts / (a + b - counts)
    band = at[int(np.searchsorted(chances.cumsum(), 0.95))]
    return float((chances * at).sum()), float(band), float(chances[shared:].sum())
