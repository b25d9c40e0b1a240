"""Findings: what a detector says of a component, with the control beside every score.

    kind      what it is taken for ("name mover")
    score     how strongly it does what that kind does
    control   the same score where the relation is absent, on the same model
    band      what the best of all components reaches there by chance (the 95 % quantile over resampled prompts)
    effect    how much of the behavior it causes, measured by intervention; None where it was not measured
    grade     "seen": the score is past the band; "proved": the effect is there too; "unseen": it is within the band

Patterns alone show no function, so nothing is proved without an intervention. The control for a pattern is not a random
model but the same model on input without the relation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.model.display import Displayed

Grade = Literal["unseen", "seen", "proved"]
GRADES: tuple[Grade, ...] = ("unseen", "seen", "proved")


@dataclass(frozen=True)
class Finding(Displayed):
    """One component and what it was found to be; see the module for the fields.

    Attributes
    ----------
    component
        Its name, as ``caseback.model.graph.names`` writes it.
    unit
        What the effect is measured in: ``"logit difference"``; empty where no effect was measured.
    draw
        What a page shows of it: plain data by name.
    """

    component: str
    kind: str
    score: float
    control: float
    band: float
    effect: float | None
    unit: str
    grade: Grade
    draw: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.grade not in GRADES:
            raise CasebackError(f"grade {self.grade!r} is unknown. {did_you_mean(self.grade, GRADES)}")


@dataclass(frozen=True)
class Findings(Displayed):
    """What a detector found, strongest effect first, and how it was found.

    Examples
    --------
    >>> one = Finding("L3H2", "name mover", 0.9, 0.1, 0.2, 1.5, "logit difference", "proved")
    >>> heads = Findings((one,), {"technique": "behaviors.find_ioi_heads"})
    >>> len(heads), [f.component for f in heads.of("name mover")], heads.kinds
    (1, ['L3H2'], ('name mover',))
    """

    findings: tuple[Finding, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __getitem__(self, place: int) -> Finding:
        return self.findings[place]

    def __repr__(self) -> str:
        return f"Findings({len(self)}: {', '.join(self.kinds) or 'none'})"

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that were found, each once."""
        return tuple(dict.fromkeys(f.kind for f in self.findings))

    def of(self, kind: str) -> tuple[Finding, ...]:
        """The findings of one kind; none where it is absent."""
        return tuple(f for f in self.findings if f.kind == kind)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "format": "caseback findings 1",
            "about": dict(self.about),
            "findings": [asdict(f) | {"draw": dict(f.draw)} for f in self.findings],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Findings:
        """Read what ``to_json`` gives.

        Raises
        ------
        CasebackError
            For data of another format.
        """
        if not isinstance(data, Mapping) or data.get("format") != "caseback findings 1":
            raise CasebackError("these are not findings: expected JSON whose 'format' is 'caseback findings 1'")
        try:
            return cls(tuple(Finding(**one) for one in data["findings"]), dict(data["about"]))
        except (TypeError, KeyError) as error:
            raise CasebackError(f"these findings lack something: {error}") from error


def band_of_best(
    scores: Float[np.ndarray, "component batch"], *, quantile: float = 0.95, draws: int = 1000, seed: int = 0
) -> float:
    """What the best of N components reaches by chance: a quantile, over resampled prompts, of the largest mean score.

        band = Q_q [ max_c mean_{b in resample} s_cb ]

    Parameters
    ----------
    scores
        (component, batch), each component's score on prompts without the relation.
    quantile
        Which quantile of the maximum.
    draws
        Resamples of the prompts, with replacement.
    seed
        Same seed, same result: it draws the resamples.

    Raises
    ------
    OutOfRange
        For no component or prompt, or a quantile outside 0 to 1.

    Examples
    --------
    >>> scores = np.random.default_rng(0).normal(size=(20, 50))
    >>> bool(band_of_best(scores) > scores.mean(1).max())
    True
    """
    if scores.ndim != 2 or not scores.size:
        raise OutOfRange(f"scores of shape {scores.shape}: expected (component, batch), one of each at least")
    if not 0 <= quantile <= 1:
        raise OutOfRange(f"quantile={quantile}: expected 0 to 1")
    n = scores.shape[1]
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    return float(np.quantile((scores @ counts.T / n).max(0), quantile))


def graded(score: float, band: float, effect: float, least: float) -> Grade | None:
    """The grade of a score and an effect; None where the score is within the band of chance.

    Examples
    --------
    >>> graded(0.9, 0.2, 1.0, 0.1), graded(0.9, 0.2, 0.0, 0.1), graded(0.1, 0.2, 1.0, 0.1)
    ('proved', 'seen', None)
    """
    if score <= band:
        return None
    return "proved" if abs(effect) >= least else "seen"


def ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Strongest effect first, whatever its sign; ties by name."""
    return tuple(sorted(findings, key=lambda f: (-abs(f.effect or 0.0), f.component)))
