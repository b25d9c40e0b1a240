"""An eraser: an affine map of few ranks that takes a concept out of a representation, place by place.

    r(x) = x - L R (x - m)            L (d, r) proj_left,  R (r, d) proj_right,  m the mean, or 0

Whatever method it comes from, it is applied to states, or put into the model as edits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from caseback.decode.erasure.target_moments import Moments, target_covariance
from caseback.decode.moments import ClassMoments
from caseback.decode.states import Place, States
from caseback.errors import CasebackError
from caseback.jobs.warned import warn
from caseback.model.display import Displayed
from caseback.model.running.affine import Affine
from caseback.model.running.edits import Edit, Index
from caseback.model.running.frames import Positions


@dataclass(frozen=True, eq=False)
class Eraser(Displayed):
    """What erases a concept.

    Attributes
    ----------
    proj_left, proj_right
        (place, d, r) and (place, r, d); 0 beyond a place's own rank.
    mean
        (place, d), which stays where it is; None for a map without it, which is linear.
    places
        Of the first dimension: ``Place`` where it was fitted to ``States``.
    method
        Which technique it comes from.
    classes
        The labels that it erases; None for numbers.
    provenance
        Of what and how it was fitted; JSON data.
    checks
        By name a value for each place: ``rank``; ``left``, the share of the covariance with the labels that is left
        (0 where no linear classifier can beat a constant); ``removed``, the share of the variance that it removes;
        ``change``, the mean square of r(x) - x. All are of the examples that it was fitted to.
    """

    proj_left: Float[Tensor, "place d r"]
    proj_right: Float[Tensor, "place r d"]
    mean: Float[Tensor, "place d"] | None
    places: list[Any]
    method: str
    classes: list[Any] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, list[float]] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The largest rank at a place."""
        return int(max(self.checks["rank"]))

    @property
    def names(self) -> list[str]:
        """The places in words."""
        return [str(place) for place in self.places]

    @property
    def table(self) -> xr.Dataset:
        """The checks by place."""
        arrays = {name: ("site", values) for name, values in self.checks.items()}
        return xr.Dataset(arrays, {"site": self.names}, {"method": self.method})

    def apply(self, x: States | Float[Tensor, "place example d"]) -> Any:
        """Erase from states.

        Parameters
        ----------
        x
            ``States`` of the eraser's places, a tensor (place, example, d), or (example, d) where there is one place.

        Returns
        -------
        States or Tensor
            As it was given.

        Raises
        ------
        CasebackError
            For other places or another width.
        """
        data = fitting(x, self.places, self.proj_left.shape[1])
        erased = data - self.removed_of(data)
        return replace(x, x=erased) if isinstance(x, States) else erased.reshape(x.shape)

    def removed_of(self, x: Float[Tensor, "place example d"]) -> Float[Tensor, "place example d"]:
        """What it takes away of states: L R (x - m)."""
        left, right = self.proj_left.to(x), self.proj_right.to(x)
        return (x if self.mean is None else x - self.mean.to(x)[:, None]) @ right.mT @ left.mT

    def edits(self, pos: Positions = None, prompt: Index = None) -> list[Edit]:
        """The eraser as edits, one for each place, for ``run``, ``generate``, ``sweep`` and ``edited``.

        Parameters
        ----------
        pos
            Positions of each prompt; all by default.
        prompt
            Prompts of the batch; all by default.

        Raises
        ------
        CasebackError
            Where it was not fitted to ``States``, so that it knows no sites.
        """
        address = {"pos": pos, "prompt": prompt}
        return [
            Affine(read=right, write=-left.mT, center=center, **place.address, **address)
            for left, right, center, place in zip(
                self.proj_left,
                self.proj_right,
                [None] * len(self.places) if self.mean is None else self.mean,
                addressed(self.places),
                strict=True,
            )
        ]

    def each(self) -> dict[str, Eraser]:
        """An eraser of each place alone, by the place's name."""
        return {name: self._of(slice(i, i + 1)) for i, name in enumerate(self.names)}

    def _of(self, some: slice) -> Eraser:
        return replace(
            self,
            proj_left=self.proj_left[some],
            proj_right=self.proj_right[some],
            mean=None if self.mean is None else self.mean[some],
            places=self.places[some],
            checks={name: values[some] for name, values in self.checks.items()},
        )

    def __repr__(self) -> str:
        shown = self.names if len(self.places) < 4 else [*self.names[:2], "...", self.names[-1]]
        ranks = sorted({int(rank) for rank in self.checks["rank"]})
        rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
        removed = max(self.checks["removed"])
        return (
            f"Eraser({self.method} at {', '.join(shown)}; {rank} of {self.proj_left.shape[1]}, removes at most "
            f"{removed:.1%} of the variance)"
        )


def fitting(x: Any, places: list[Any], d: int) -> Float[Tensor, "place example d"]:
    """States of these places and this width, as a tensor.

    Raises
    ------
    CasebackError
        For others.
    """
    if isinstance(x, States):
        if list(x.places) != list(places) and isinstance(places[0], Place):
            raise CasebackError(
                f"states of {', '.join(x.names[:4])}: the eraser is of {places[0]} and {len(places)} in all"
            )
        x = x.x
    if not isinstance(x, Tensor):
        raise CasebackError(f"what is erased from is a {type(x).__name__}: expected States, or a tensor")
    data = x[None] if x.ndim == 2 else x
    if data.ndim != 3 or len(data) != len(places) or data.shape[2] != d or not data.is_floating_point():
        raise CasebackError(
            f"representations of shape {tuple(x.shape)}: the eraser is of {len(places)} places and width {d}, "
            "(place, example, d)"
        )
    return data


def addressed(places: list[Any]) -> list[Place]:
    """Places that an edit can be addressed to.

    Raises
    ------
    CasebackError
        Where they are mere numbers.
    """
    if not all(isinstance(place, Place) for place in places):
        raise CasebackError("the eraser knows no sites: fit it to states that caseback.decode.read_states gave")
    return places


def eraser_of(
    moments: Moments,
    left: Float[Tensor, "place d r"],
    right: Float[Tensor, "place r d"],
    method: str,
    *,
    affine: bool,
    **provenance: Any,
) -> Eraser:
    """The eraser of these factors, with its checks.

    A warning names places where covariance with the labels is left.
    """
    own = (left != 0).any(1)  # (place, r)
    ranks = own.sum(1)
    order = (~own).to(torch.uint8).argsort(dim=1, stable=True)[:, : max(1, int(ranks.max()))]
    left = left.gather(2, order[:, None].expand(-1, left.shape[1], -1))
    right = right.gather(1, order[:, :, None].expand(-1, -1, right.shape[2]))
    covariance, cross, mean = moments.covariance, moments.cross_covariance, moments.mean
    seen = covariance @ right.mT
    change = ((left.mT @ left) * (right @ seen)).sum((1, 2))
    variance = covariance.diagonal(dim1=1, dim2=2).sum(1)
    removed = (2 * (left * seen).sum((1, 2)) - change) / variance
    rest = share_left(moments, cross - left @ (right @ cross))
    if not affine:
        change = change + (left @ (right @ mean[..., None])).square().sum((1, 2))
    checks = {"rank": ranks, "left": rest, "removed": removed, "change": change}
    return Eraser(
        left,
        right,
        mean if affine else None,
        list(moments.places),
        method,
        list(moments.classes) if isinstance(moments, ClassMoments) else None,
        {"n": int(moments.n), "affine": affine, **provenance},
        {name: values.tolist() for name, values in checks.items()},
    )


def share_left(moments: Moments, rest: Float[Tensor, "place d k"]) -> Float[Tensor, " place"]:
    """What is left of the covariance with the labels, as a share; of what is 0 but for rounding nothing can be left."""
    variance = moments.covariance.diagonal(dim1=1, dim2=2).sum(1)
    least = 1e-9 * (variance * target_covariance(moments).trace()).sqrt()
    return rest.flatten(1).norm(dim=1) / moments.cross_covariance.flatten(1).norm(dim=1).maximum(least)


def warn_of_rest(names: list[str], left: list[float], tolerance: float) -> None:
    """Say where a tolerance on singular values has left covariance with the labels."""
    some = [name for name, share in zip(names, left, strict=True) if share > 0.01]
    if some:
        warn(
            f"at {', '.join(some[:4])}{' and others' if len(some) > 4 else ''} up to {max(left):.0%} of the covariance "
            f"with the labels is left, in singular values below svd_tol={tolerance}: a smaller one erases them too",
            stacklevel=3,
        )


def joined(parts: list[Eraser], method: str) -> Eraser:
    """Erasers of several places as one, of the largest of their ranks.

    Raises
    ------
    CasebackError
        For several widths, and where some keep the mean and others do not.
    """
    if len({part.proj_left.shape[1] for part in parts}) > 1 or len({part.mean is None for part in parts}) > 1:
        raise CasebackError("the erasers are of several widths, or not all affine: keep them apart")
    rank = max(part.proj_left.shape[2] for part in parts)
    left = [pad(part.proj_left, (0, rank - part.proj_left.shape[2])) for part in parts]
    right = [pad(part.proj_right, (0, 0, 0, rank - part.proj_right.shape[1])) for part in parts]
    means = [part.mean for part in parts if part.mean is not None]
    return Eraser(
        torch.cat(left),
        torch.cat(right),
        torch.cat(means) if means else None,
        [place for part in parts for place in part.places],
        method,
        parts[0].classes,
        parts[0].provenance,
        {name: [value for part in parts for value in part.checks[name]] for name in parts[0].checks},
    )
