"""What was measured over a run's checkpoints: kinds of heads and when each arises, and curves of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from caseback.errors import CasebackError, did_you_mean

T = TypeVar("T")
Values = tuple[float | None, ...]
"""One a checkpoint; None where nothing was measured."""


@dataclass(frozen=True)
class KindCurve:
    """One kind of head over the checkpoints.

    Attributes
    ----------
    kind, entry, looks_at, control_is, threshold
        As of the atlas's kind.
    score, control, band
        Of the head that the first half of the text ranks highest, on the other half; the band is what the best of all
        heads reaches by chance.
    best
        Which head that is.
    seen
        How many heads have the label.
    arises
        The first step at which some head has the label and one has it at every later step too; None where there is
        none.
    missing
        Why nothing was measured; empty where something was.
    """

    kind: str
    entry: str
    looks_at: str
    control_is: str
    threshold: float
    score: Values = ()
    control: Values = ()
    band: Values = ()
    best: tuple[str, ...] = ()
    seen: tuple[int, ...] = ()
    arises: int | None = None
    missing: str = ""


@dataclass(frozen=True)
class Curve:
    """One number over the checkpoints.

    Attributes
    ----------
    name, what
        What it is called, and what it is in words.
    values
        One a checkpoint.
    beside, beside_is
        What it is to be compared with, one a checkpoint, and what that is in words; empty where there is nothing.
    missing
        Why nothing was measured; empty where something was.
    """

    name: str
    what: str
    values: Values = ()
    beside: Values = ()
    beside_is: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Emergence:
    """What was measured over a run's checkpoints.

    Attributes
    ----------
    steps
        Of the checkpoints, rising.
    kinds
        One curve a kind of head.
    curves
        Losses, distances and norms.
    about
        Of which models, on how much text, and how it was made.
    """

    steps: tuple[int, ...]
    kinds: tuple[KindCurve, ...]
    curves: tuple[Curve, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def kind(self, name: str) -> KindCurve:
        """A kind's curve by its name.

        Raises
        ------
        CasebackError
            For a kind that was not looked for.
        """
        return _named(name, {one.kind: one for one in self.kinds}, "kind")

    def curve(self, name: str) -> Curve:
        """A curve by its name.

        Raises
        ------
        CasebackError
            For a name that is none.
        """
        return _named(name, {one.name: one for one in self.curves}, "curve")

    def __repr__(self) -> str:
        arisen = ", ".join(f"{one.kind} at {one.arises}" for one in self.kinds if one.arises is not None)
        steps = f"{len(self.steps)} checkpoints, steps {self.steps[0]} to {self.steps[-1]}"
        return f"Emergence({steps}; {arisen or 'no kind'})"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "steps": list(self.steps),
            "kinds": [_lists(asdict(one)) for one in self.kinds],
            "curves": [_lists(asdict(one)) for one in self.curves],
            "about": dict(self.about),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Emergence:
        """Read what ``to_json`` gave.

        Raises
        ------
        CasebackError
            For data of another form.
        """
        try:
            kinds = tuple(KindCurve(**_tuples(one)) for one in data["kinds"])
            curves = tuple(Curve(**_tuples(one)) for one in data["curves"])
            steps, about = tuple(int(step) for step in data["steps"]), dict(data["about"])
        except (KeyError, TypeError, ValueError) as error:
            raise CasebackError(f"not what emergence measured ({error}): pass what save_emergence wrote") from error
        of = [line for kind in kinds for line in (kind.score, kind.control, kind.band, kind.best, kind.seen)]
        of += [line for curve in curves for line in (curve.values, curve.beside)]
        if odd := [line for line in of if len(line) not in (0, len(steps))]:
            raise CasebackError(f"a curve of {len(odd[0])} values over {len(steps)} checkpoints: expected one each")
        return cls(steps, kinds, curves, about)


def _named(name: str, own: Mapping[str, T], what: str) -> T:
    if name not in own:
        raise CasebackError(f"no {what} is called {name!r} here. {did_you_mean(str(name), own, most=8)}")
    return own[name]


def arises(steps: Sequence[int], seen: Sequence[int]) -> int | None:
    """The first step from which on something is seen at every step.

    Examples
    --------
    >>> arises([0, 10, 20, 30], [1, 0, 2, 1]), arises([0, 10], [3, 0])
    (20, None)
    """
    first = None
    for step, count in zip(steps, seen, strict=True):
        first = None if not count else step if first is None else first
    return first


def _lists(value: dict[str, Any]) -> dict[str, Any]:
    return {name: list(one) if isinstance(one, tuple) else one for name, one in value.items()}


def _tuples(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(one) if isinstance(one, list) else one for name, one in value.items()}
