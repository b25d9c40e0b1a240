"""What was measured of a behavior, as plain data: the margin beside chance, roles, heads, places, transfers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from caseback.model.findings import Findings

LACKING = 0.1
"""Nats by which examples must make answers likelier, or prompts without them lack nothing."""


@dataclass(frozen=True)
class Margin:
    """How well the model does the task on held-out prompts.

    Attributes
    ----------
    measure
        What the numbers are of: ``"logit_diff"``, ``"prob_diff"`` or ``"log_prob"``.
    clean, error
        The mean on the prompts, and its standard error.
    corrupt
        The mean on their counterfactuals.
    chance, band
        The mean and the 95 % quantile of ``clean`` with the prompts' answers dealt out anew.
    right
        The share of prompts whose answer is above its foils (likelier than all other tokens, for ``"log_prob"``).
    """

    measure: str
    clean: float
    error: float
    corrupt: float
    chance: float
    band: float
    right: float

    @property
    def present(self) -> bool:
        """Whether the model does the task: past the band, and two standard errors past chance."""
        return self.clean > self.band and self.clean - 2 * self.error > self.chance


@dataclass(frozen=True)
class RoleReport:
    """What was found of one role.

    Attributes
    ----------
    name, about, at, to, proof
        As of ``Role``.
    candidates
        How many parts were put to the proof.
    proved
        How many were proved.
    together, together_band
        The fall when all candidates that look as the role does are exchanged at its place at once, and the 95 %
        quantile of as many random parts; None where there is none.
    missing
        Why it was not looked for; empty where it was.
    """

    name: str
    about: str
    at: str
    to: str
    proof: str
    candidates: int = 0
    proved: int = 0
    together: float | None = None
    together_band: float | None = None
    missing: str = ""


@dataclass(frozen=True)
class Carried:
    """What of the margin is lost where a place of the stream is the counterfactual's: (place, layer), shares."""

    places: tuple[str, ...]
    layers: tuple[int, ...]
    shares: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Transfer:
    """What a vector does to prompts without the function, beside its controls.

    Attributes
    ----------
    vector
        ``"function vector"`` or ``"task vector"``.
    prompts
        ``"zero-shot"`` or ``"shuffled"``.
    layer
        Where it was put, chosen on other prompts.
    by
        For ``"log_prob"`` and ``"accuracy"``, each ``without`` the vector, ``with`` it, the ``band`` (the 95 % quantile
        of random vectors of its norm), the vector of the ``other`` task (None where none was given), and ``shown``,
        with all examples in the prompt.
    words
        What ``other`` and ``shown`` are where they are something else.
    """

    vector: str
    prompts: str
    layer: int
    by: Mapping[str, Mapping[str, float | None]]
    words: Mapping[str, str] = field(default_factory=dict)

    @property
    def carries(self) -> bool | None:
        """Whether the answer is likelier than without, than under random vectors and than under the other task's.

        None where the prompts lack nothing that examples would give: the answer is as likely without them.
        """
        of = {name: value for name, value in self.by["log_prob"].items() if value is not None}
        if of["shown"] - of["without"] < LACKING:
            return None
        return all(of["with"] > of[name] for name in ("without", "band", "other") if name in of)


@dataclass(frozen=True)
class BehaviorReport:
    """What was measured of a behavior in a model.

    Attributes
    ----------
    behavior, about, entry, citation
        Which behavior it is.
    prompts
        How many prompts parts were chosen on, and how many others they were judged on.
    example
        A held-out prompt: its ``clean`` and ``corrupt`` texts, ``target`` and ``foil``.
    margin
        How well the model does it.
    roles
        One report a role; empty where the behavior is absent.
    heads
        The parts that were put to the proof, with their grades; none where the behavior is absent.
    carried
        Which places of the stream carry it, where that was measured.
    transfers
        What vectors of the task do, where it has some.
    about_model
        Of which model, and how it was made.
    """

    behavior: str
    about: str
    entry: str
    citation: str
    prompts: tuple[int, int]
    example: Mapping[str, str]
    margin: Margin
    roles: tuple[RoleReport, ...] = ()
    heads: Findings = Findings(())
    carried: Carried | None = None
    transfers: tuple[Transfer, ...] = ()
    about_model: Mapping[str, Any] = field(default_factory=dict)

    @property
    def present(self) -> bool:
        """Whether the model does the task at all."""
        return self.margin.present

    def proved(self, role: str | None = None) -> tuple[str, ...]:
        """Names of the proved parts, of one role or of all, each once.

        Examples
        --------
        >>> import caseback as cb
        >>> report = cb.behaviors.behavior(cb.load("meadow"), "induction", prompts=8)
        >>> report.present, len(report.proved("induction")) > 0
        (True, True)
        """
        own = (f.component for f in self.heads if f.grade == "proved" and role in (None, f.kind))
        return tuple(dict.fromkeys(own))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            **{name: getattr(self, name) for name in ("behavior", "about", "entry", "citation", "present")},
            "prompts": list(self.prompts),
            "example": dict(self.example),
            "margin": asdict(self.margin),
            "roles": [asdict(role) for role in self.roles],
            "heads": self.heads.to_json()["findings"],
            "carried": None if self.carried is None else _lists(asdict(self.carried)),
            "transfers": [asdict(one) | {"carries": one.carries} for one in self.transfers],
        }


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(inner) for key, inner in value.items()}
    return [_lists(inner) for inner in value] if isinstance(value, tuple | list) else value
