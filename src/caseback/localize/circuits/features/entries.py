"""Effects as entries: of all nodes at all positions of all prompts only those that have one.

A dictionary of thousands of features has some dozens active at a position, so effects are found place by place, and
what is left of each is where an effect is and how large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.localize.circuits.features.places import Place

AGGREGATIONS = ("none", "sum", "max")


@dataclass(frozen=True)
class Entries:
    """Nodes at positions of prompts, with their effects.

    Attributes
    ----------
    place, prompt, pos, unit
        Which place, by its number; which prompt; its position there, -1 for all; which node of the place.
    effect
        What the metric would change by.
    """

    place: Int[Tensor, " entry"]
    prompt: Int[Tensor, " entry"]
    pos: Int[Tensor, " entry"]
    unit: Int[Tensor, " entry"]
    effect: Float[Tensor, " entry"]

    def __len__(self) -> int:
        return len(self.effect)

    def only(self, some: Tensor) -> Entries:
        """Some of the entries, by a mask or by numbers."""
        return Entries(*(getattr(self, f.name)[some] for f in fields(self)))

    def strongest(self, count: int) -> Entries:
        """The entries of largest effect, whatever its sign, in falling order."""
        return self.only(self.effect.abs().sort(descending=True, stable=True).indices[:count])

    def of_prompts_from(self, first: int) -> Entries:
        """The same, of a batch that begins at another prompt."""
        return replace(self, prompt=self.prompt + first)

    def aggregated(self, how: str) -> Entries:
        """Over positions: their sum, or the largest in size with its sign; ``"none"`` leaves all as they are."""
        if how not in AGGREGATIONS:
            raise CasebackError(f"aggregation {how!r} is unknown. {did_you_mean(how, AGGREGATIONS)}")
        if how == "none" or not len(self):
            return self
        nodes, effect = reduced(torch.stack([self.place, self.prompt, self.unit], 1), self.effect, how)
        return Entries(nodes[:, 0], nodes[:, 1], torch.full((len(nodes),), -1), nodes[:, 2], effect)

    @classmethod
    def none(cls) -> Entries:
        """No entries at all."""
        return cls.of(0, torch.zeros(0, 0, 0))

    @classmethod
    def joined(cls, parts: Sequence[Entries]) -> Entries:
        """Several, one after the other."""
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    @classmethod
    def of(cls, index: int, effects: Float[Tensor, "batch pos unit"], above: float = 0.0) -> Entries:
        """The entries of a place whose effect is larger in size than ``above``."""
        prompt, pos, unit = (effects.abs() > above).nonzero(as_tuple=True)
        there = effects[prompt, pos, unit].cpu().double()
        return cls(torch.full((len(unit),), index), prompt.cpu(), pos.cpu(), unit.cpu(), there)


def reduced(
    keys: Int[Tensor, "entry part"], values: Float[Tensor, " entry"], how: str
) -> tuple[Int[Tensor, "group part"], Float[Tensor, " group"]]:
    """Values of equal keys as one: their ``"sum"``, or the ``"max"`` in size with its sign; ``"none"`` sums too."""
    groups, at = keys.unique(dim=0, return_inverse=True)
    if how != "max":
        return groups, values.new_zeros(len(groups)).index_add_(0, at, values)
    order = np.lexsort((values.abs().numpy(), at.numpy()))
    ends = np.append(
        np.flatnonzero(np.diff(at.numpy()[order])), len(order) - 1
    )  # the last of each group is the largest
    return groups, values[torch.as_tensor(order[ends])]


def effects_of(place: Place, change: Tensor, gradient: Tensor, x: Tensor) -> Float[Tensor, "batch pos unit"]:
    """What each node's change is worth: its change times the gradient at it."""
    return (change * place.pulled(gradient, x).to(change)).sum(-1)


def names_of(places: Sequence[Place], entries: Entries) -> list[str]:
    """The entries' nodes by name, with their position where they have one."""
    rows = zip(entries.place.tolist(), entries.unit.tolist(), entries.pos.tolist(), strict=True)
    return [str(places[place].name(unit, "" if pos < 0 else str(pos))) for place, unit, pos in rows]
