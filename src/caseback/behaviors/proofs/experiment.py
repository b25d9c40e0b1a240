"""What an experiment is: prompts, a metric on them, and what stands in a unit's place, as data.

effect = metric with the unit replaced - metric as it is. Means are taken where the relation is absent, so that what a
unit always writes stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Look
from caseback.model.running.edits import Edit, Replace
from caseback.model.running.metrics import Metric
from caseback.model.running.tokens import Tokens

Unit = tuple[str, int, int]
"""Its sort (``"head"``, ``"neuron"`` or ``"expert"``), its layer, its number there."""

Replaced = Callable[[Unit], Edit | list[Edit]]
"""What takes a unit's contribution out, or puts it where the experiment wants it."""


@dataclass(frozen=True)
class Experiment:
    """Prompts, a metric, and what replaces a unit.

    With ``still`` an effect is what goes along the path that the label claims: |effect| less the |effect| with that
    path standing still, prompt by prompt; half of the whole at least proves it.

    Attributes
    ----------
    name
        What kinds call it.
    tokens
        The prompts.
    metric
        What is measured of each prompt.
    unit
        What an effect is measured in.
    replaced
        The edits that take a unit's contribution out.
    scale
        What an effect is divided by.
    worth
        How much the metric falls where the relation is absent, in the effect's unit; 0 where there is no relation.
    room
        How much it can rise at most; None where there is no end.
    least
        The least effect that proves anything, beside what ``worth`` and ``room`` ask for.
    still
        The same with the claimed path standing still: a metric, and what replaces a unit.
    either
        Whether an effect counts whichever way it goes.
    before
        Units of layers from this one on cannot matter, and are no controls; None where all can.
    """

    name: str
    tokens: Tokens
    metric: Metric
    unit: str
    replaced: Replaced
    scale: float = 1.0
    worth: float = 0.0
    room: float | None = None
    least: float = 0.0
    still: tuple[Metric, Replaced] | None = None
    either: bool = False
    before: int | None = None


@dataclass(frozen=True)
class Recipe:
    """How an experiment is made, and the tables that it needs by stream.

    Attributes
    ----------
    make
        Of what was measured, for all candidates.
    needs
        Names of tables by stream.
    each
        Instead, for one candidate, from its look and its number: where what is measured depends on the unit.
    """

    make: Callable[[Evidence], Experiment] | None
    needs: dict[str, tuple[str, ...]]
    each: Callable[[Evidence, Look, int], Experiment] | None = None


def address(unit: Unit) -> dict[str, int]:
    """The unit's part of an edit's address."""
    sort, _, index = unit
    return {"head": index} if sort == "head" else {"unit": index}


SITES = {"head": "z", "neuron": "mlp_post", "expert": "expert"}
"""Where a unit is replaced, by its sort."""


def by_means(evidence: Evidence, stream: str, **where: Any) -> Callable[[Unit], Edit]:
    """Means of a stream in a unit's place, an expert's weight 0; ``where`` says at which positions."""
    means: dict[str, dict[tuple[int, int], Tensor]] = {}

    def of_heads() -> dict[tuple[int, int], Tensor]:
        parts = [fold["mean"].values for fold in evidence.folds(stream, "head_moments")]
        mean = torch.as_tensor(sum(parts) / len(parts))
        return {(layer, head): mean[layer, head] for layer, head in evidence.heads}

    def of_neurons() -> dict[tuple[int, int], Tensor]:
        mean = torch.as_tensor(evidence.by_neuron(stream, "neuron_moments", "mlp_post_mean").mean(1))
        return dict(zip(evidence.neurons, mean, strict=True))

    def replaced(unit: Unit) -> Edit:
        sort, layer, index = unit
        if sort == "expert":
            return Replace(SITES[sort], layer=layer, value=0.0, **address(unit), **where)
        if sort not in means:
            means[sort] = of_heads() if sort == "head" else of_neurons()
        return Replace(SITES[sort], layer=layer, value=means[sort][layer, index], **address(unit), **where)

    return replaced
