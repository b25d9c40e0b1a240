"""Directions at some places of a model: each a vector to detect a concept with, and one to write it with.

    score = x . detect + bias               x <- x + strength * write

The two differ wherever features are correlated. What reads a concept out best need not be what changes when the
concept does: of a read-out w that is C w, with C the covariance of x (Haufe et al. 2014). Adding w itself is the
commonest misuse of probes in steering.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.representations import representations
from caseback.decode.states import Place, States
from caseback.errors import CasebackError, EditError, did_you_mean
from caseback.model.arguments import checked
from caseback.model.display import Displayed
from caseback.model.running.edits import Add, Edit, Index, Project
from caseback.model.running.frames import Positions


@checked
@dataclass(frozen=True, eq=False)
class Directions(Displayed):
    """A direction at each of some places.

    Attributes
    ----------
    detect
        (place, d), what a state is multiplied with.
    write
        (place, d), what is added: it moves the score from the mean of one class to that of the other.
    bias
        (place,), so that the score is 0 halfway between the classes.
    norm
        (place,), the mean length of the states that it was found on: strengths may be relative to it.
    places
        Of the first dimension.
    classes
        The labels that a negative and a positive score speak for.
    table
        What was measured, by place.
    """

    detect: Float[Tensor, "place d"]
    write: Float[Tensor, "place d"]
    bias: Float[Tensor, " place"]
    norm: Float[Tensor, " place"]
    places: list[Place]
    classes: tuple[Any, Any]
    table: xr.Dataset

    @property
    def names(self) -> list[str]:
        """The places in words."""
        return [str(place) for place in self.places]

    @property
    def best(self) -> str:
        """The place at which held-out examples are told apart best; of several that do so, the farthest apart."""
        keys = [-self.table[name].values for name in ("separation", "auroc") if name in self.table]
        return self.names[int(np.lexsort(keys)[0])]  # NaN comes last

    def at(self, places: str | Place | Sequence[str | Place]) -> Directions:
        """The directions at one place, or at some.

        Raises
        ------
        CasebackError
            For a place where there is none.
        """
        wanted = [places] if isinstance(places, str | Place) else list(places)
        names = self.names
        for name in wanted:
            if str(name) not in names:
                raise CasebackError(f"there is no direction at {str(name)!r}. {did_you_mean(str(name), names)}")
        rows = [names.index(str(name)) for name in wanted]
        return replace(
            self,
            detect=self.detect[rows],
            write=self.write[rows],
            bias=self.bias[rows],
            norm=self.norm[rows],
            places=[self.places[row] for row in rows],
            table=self.table.isel(site=rows),
        )

    def scores(self, x: States | Tensor) -> Float[Tensor, "place example"]:
        """How far each example is on the positive side; 0 is halfway.

        Raises
        ------
        CasebackError
            For states of other places or another width.
        """
        data = representations(x).to(self.detect)
        if data.shape[0] != len(self.places) or data.shape[2] != self.detect.shape[1]:
            raise CasebackError(
                f"states of shape {tuple(data.shape)}: expected ({len(self.places)}, example, {self.detect.shape[1]})"
            )
        return (data @ self.detect[..., None])[..., 0] + self.bias[:, None]

    def edits(
        self,
        strength: float | Tensor = 1.0,
        *,
        unit: Literal["difference", "norm"] = "difference",
        pos: Positions = None,
        prompt: Index = None,
    ) -> list[Edit]:
        """Edits that add the directions.

        Parameters
        ----------
        strength
            How much; negative towards the other class. A tensor (batch,) has one for each prompt.
        unit
            ``"difference"``: 1 is ``write`` as it is, the distance of the classes. ``"norm"``: 1 is as long as a state
            is on average, whatever the length of ``write``.
        pos
            Where: all positions, given and generated, by default; ``"prompt"``, ``"generated"``, or positions.
        prompt
            Which prompts of the batch; all by default.

        Raises
        ------
        EditError
            For a strength that is not finite.
        """
        amount = torch.as_tensor(strength, dtype=torch.float64)
        if amount.ndim > 1 or not bool(amount.isfinite().all()):
            raise EditError(f"strength {strength}: expected a finite number, or one for each prompt")
        vectors = self.vectors(unit)
        values = amount.to(vectors)[..., None] * vectors[:, None] if amount.ndim else amount.to(vectors) * vectors
        return additions(self.places, values, pos=pos, prompt=prompt)

    def vectors(self, unit: Literal["difference", "norm"] = "difference") -> Float[Tensor, "place d"]:
        """What a strength of 1 adds.

        Raises
        ------
        EditError
            For ``unit="norm"`` where the mean length of states is not known.
        """
        if unit == "difference":
            return self.write
        if not bool(self.norm.isfinite().all()):
            raise EditError(
                "these directions came without the states' length: give strengths in unit='difference', or load them "
                "with model= and prompts= to measure it"
            )
        return self.write / self.write.norm(dim=1, keepdim=True) * self.norm[:, None]

    def ablation(
        self, *, places: Sequence[Place] | None = None, pos: Positions = None, prompt: Index = None
    ) -> list[Edit]:
        """Edits that remove what states have along ``write``: x - r (r . x), r its unit vector.

        Parameters
        ----------
        places
            Where, if these are directions at one place: a direction found at one layer may be removed at all. By
            default each is removed where it is.
        pos, prompt
            As in ``edits``.

        Raises
        ------
        EditError
            For other places where there are directions at several.
        """
        if places is not None and len(self.places) != 1:
            raise EditError(f"directions at {len(self.places)} places: take one with .at(...) to remove it elsewhere")
        where = self.places if places is None else places
        rows = self.write if places is None else self.write.expand(len(where), -1)
        return [
            Project(basis=row[None], pos=pos, prompt=prompt, **place.address)
            for place, row in zip(where, rows, strict=True)
        ]

    def __repr__(self) -> str:
        negative, positive = self.classes
        where = self.names[0] if len(self.places) == 1 else f"{len(self.places)} places, best {self.best}"
        return f"Directions({negative!r} to {positive!r}; {where}, AUROC {float(self.table.auroc.max()):.3f})"


def additions(
    places: Sequence[Place], values: Float[Tensor, "place *batch d"], *, pos: Positions = None, prompt: Index = None
) -> list[Edit]:
    """Edits that add a vector at each place, the same for all prompts or one for each; heads of a layer in one."""
    if values.ndim == 3 and not isinstance(pos, int | Tensor):
        values = values[:, :, None]  # (batch, pos, d)
    together: dict[tuple[str, int | None, bool], list[int]] = {}
    for row, place in enumerate(places):
        together.setdefault((place.site, place.layer, place.head is None), []).append(row)
    edits: list[Edit] = []
    for (site, layer, whole), rows in together.items():
        if whole:
            edits += [Add(site, values[row], layer=layer, pos=pos, prompt=prompt) for row in rows]
        else:
            heads = [head for row in rows if (head := places[row].head) is not None]
            edits.append(Add(site, values[rows].movedim(0, -2), layer=layer, head=heads, pos=pos, prompt=prompt))
    return edits
