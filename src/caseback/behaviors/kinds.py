"""Kinds of units: how each is looked for, what the control is, and which intervention proves it.

    score      what the look finds, less what attention spread evenly (or chance) would give
    control    the same number where the relation is absent, on the same model
    band       what the best of all units reaches on the control by chance: quantile .95
    seen       score > max(band, threshold)
    proved     seen, and the intervention moves its metric further in the expected direction than .95 of matched units

Looks reduce what ``Evidence`` holds and never run the model. Units are ranked on one half of the documents and scored
on the other; the band is of the first half's control, so the second half's control says how many labels are false.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from caseback.errors import CasebackError, did_you_mean
from caseback.model.findings import band_of_best

if TYPE_CHECKING:
    from caseback.behaviors.evidence import Evidence

Sort = Literal["head", "neuron", "expert", "dimension"]
"""What a unit is."""


@dataclass(frozen=True)
class Look:
    """What a look says of every unit, (unit) each, in the order of ``Evidence.names``.

    Attributes
    ----------
    ranked_by
        The score on the half of the documents that units are ranked on.
    score
        The score on the other half.
    control
        The score on the other half where the relation is absent.
    band
        What the best unit reaches by chance on the first half's control; one number, or one a unit.
    beside
        More numbers by name, each (unit), for a unit's card.
    classes
        Where units are of a class of texts, relation or the like: its name, one a unit.
    among_equals
        What orders units of the same ``ranked_by``, the largest first; without it they stand in the order of layers.
    """

    ranked_by: Float[np.ndarray, " unit"]
    score: Float[np.ndarray, " unit"]
    control: Float[np.ndarray, " unit"]
    band: float | Float[np.ndarray, " unit"]
    beside: Mapping[str, Float[np.ndarray, " unit"]] = field(default_factory=dict)
    classes: Sequence[str] = ()
    among_equals: Float[np.ndarray, " unit"] | None = None


@dataclass(frozen=True)
class Kind:
    """One kind of unit.

    Attributes
    ----------
    name
        What such a unit is called: ``"induction"``.
    sort
        What the unit is.
    entry, citation
        The Primer's entry, and who described it.
    looks_at
        What the score is, in words.
    control_is
        What the control is, in words.
    threshold
        The least score of a label.
    needs
        What of ``Evidence`` the look reads: names of tables by stream.
    look
        The reduction.
    proof
        The experiment that proves it (a name in ``proofs.EXPERIMENTS``), empty where there is none.
    sign
        Which way the experiment, which replaces such a unit, moves its metric: -1 down, 1 up, 0 hardly at all.
    works
        What the look computes beside reducing tables, by the names of ``costs.WORKS``.
    """

    name: str
    sort: Sort
    entry: str
    citation: str
    looks_at: str
    control_is: str
    threshold: float
    needs: Mapping[str, tuple[str, ...]]
    look: Callable[[Evidence], Look]
    proof: str = ""
    sign: int = -1
    works: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {}
"""Every kind by its name."""


def kind(
    name: str,
    sort: Sort,
    *,
    entry: str,
    citation: str,
    looks_at: str,
    control_is: str,
    threshold: float,
    needs: Mapping[str, tuple[str, ...]],
    proof: str = "",
    sign: int = -1,
    works: tuple[str, ...] = (),
) -> Callable[[Callable[[Evidence], Look]], Callable[[Evidence], Look]]:
    """Register a look as that of a kind; the parameters are the attributes of ``Kind``."""

    def register(look: Callable[[Evidence], Look]) -> Callable[[Evidence], Look]:
        if name in KINDS:
            raise CasebackError(f"a kind is called {name!r} already: choose another name")
        words = (name, sort, entry, citation, looks_at, control_is, threshold)
        KINDS[name] = Kind(*words, dict(needs), look, proof, sign, works)
        return look

    return register


def kinds_of(given: Sequence[str] | str | None) -> list[Kind]:
    """Kinds by their names, or all of them.

    Raises
    ------
    CasebackError
        For a name that is none, or no name at all.
    """
    names = list(KINDS) if given is None else [given] if isinstance(given, str) else list(given)
    if not names:
        raise CasebackError("no kind is named: expected some, such as 'induction', or kinds=None for all of them")
    for name in names:
        if name not in KINDS:
            raise CasebackError(f"no kind is called {name!r}. {did_you_mean(str(name), KINDS, most=8)}")
    return [KINDS[name] for name in dict.fromkeys(names)]


def in_order(entry: str) -> tuple[bool, list[int]]:
    """What sorts entries: the Primer's by their numbers, and behind them what came after.

    Examples
    --------
    >>> sorted(["B.2", "5.1.10", "5.1.9"], key=in_order)
    ['5.1.9', '5.1.10', 'B.2']
    """
    return entry.startswith("B"), [int(part) for part in entry.removeprefix("B.").split(".")]


def halves(values: Float[np.ndarray, "unit fold"]) -> tuple[np.ndarray, np.ndarray]:
    """The folds that units are ranked on, and those that they are scored on."""
    middle = values.shape[1] // 2
    return values[:, :middle], values[:, middle:]


def look_at(
    score: Float[np.ndarray, "unit fold"], control: Float[np.ndarray, "unit fold"], **beside: np.ndarray
) -> Look:
    """A look from scores and controls by fold: means of the halves, and the band of the first half's control."""
    ranked_by, scored = halves(score)
    first, second = halves(control)
    means = {name: values.mean(1) for name, values in beside.items()}
    return Look(ranked_by.mean(1), scored.mean(1), second.mean(1), band_of_best(first), means)


def beyond(values: Any, band: Any, threshold: float) -> Any:
    """Which values make a label: those past the band and the threshold."""
    return values > np.maximum(band, threshold)


def labels(look: Look, threshold: float) -> np.ndarray:
    """Which units have the label."""
    return beyond(look.score, look.band, threshold)


def false_labels(look: Look, threshold: float) -> int:
    """How many units would have the label on the control."""
    return int(beyond(look.control, look.band, threshold).sum())


def beside_of(look: Look, unit: int) -> dict[str, Any]:
    """The further numbers of one unit, and its class."""
    own = {"class": look.classes[unit]} if look.classes else {}
    return own | {name: float(values[unit]) for name, values in look.beside.items()}
